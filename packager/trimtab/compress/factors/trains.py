"""A chain of small cores in the place of a large matrix."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from trimtab.compress import decompositions as numeric
from trimtab.compress.decompositions import Array
from trimtab.compress.factors.base import COSTLY_RUNGS, Splitter, Stage, spread
from trimtab.compress.factors.layers import Layer
from trimtab.graph.access import shape_of


class TensorTrain(Splitter):
    """A chain of small products over the digits of the features' numbers."""

    name = "tensor_train"
    digits = 3

    def refusal(self, layer: Layer) -> str | None:
        """Refuse what the class does not fit."""
        if layer.kind != "dense":
            return "only dense layers have features that are numbered by digits"
        if 1 in self.taken(layer) + self.made(layer):
            return f"{layer.weight.shape} features do not split into {self.digits} digits each"
        if None in (shape_of(layer.node.inputs[0]) or (None, None))[1:]:
            return "its input has free lengths beside the batch"
        return None

    def taken(self, layer: Layer) -> tuple[int, ...]:
        """Lengths of the digits of the inputs."""
        return numeric.digits_of(layer.weight.shape[0], self.digits)

    def made(self, layer: Layer) -> tuple[int, ...]:
        """Lengths of the digits of the outputs; falling, so that the cores are of a size."""
        return numeric.digits_of(layer.weight.shape[1], self.digits)[::-1]

    def stages(self, layer: Layer, ranks: tuple[int, ...]) -> list[Stage]:
        """List the layers that replace it."""
        taken, made = self.taken(layer), self.made(layer)
        limits = self._limits(layer)
        between = [1, *(min(ranks[0], limit) for limit in limits), 1]
        return [Stage((between[k], taken[k], made[k], between[k + 1])) for k in range(self.digits)]

    def weights(self, layer: Layer, ranks: tuple[int, ...]) -> list[Array]:
        """Decompose the weight."""
        return numeric.tensor_train(layer.weight, self.taken(layer), self.made(layer), ranks[0])

    def highest(self, layer: Layer) -> tuple[int, ...]:
        """Count to the full rank."""
        return (max(self._limits(layer)),)

    def _limits(self, layer: Layer) -> list[int]:
        """Return the largest rank between each two cores."""
        pairs = [m * n for m, n in zip(self.taken(layer), self.made(layer), strict=True)]
        return [min(prod(pairs[:cut]), prod(pairs[cut:])) for cut in range(1, self.digits)]

    def losses(self, layer: Layer) -> list[tuple[tuple[int, ...], float]]:
        """Say what each rank loses."""
        return [
            ((rank,), numeric.lost_energy(layer.weight, numeric.train_matrix(cores)))
            for rank in spread(self.highest(layer)[0], COSTLY_RUNGS)
            for cores in [self.weights(layer, (rank,))]
        ]

    def macs(self, layer: Layer, stages: Sequence[Stage]) -> int:
        """The last digit is multiplied first, with all digits before it still those of inputs."""
        total, made = 0, 1
        for place in range(len(stages) - 1, -1, -1):
            taken = prod(stage.shape[1] for stage in stages[:place])
            total += taken * made * prod(stages[place].shape)
            made *= stages[place].shape[2]
        return total * prod(layer.before)
