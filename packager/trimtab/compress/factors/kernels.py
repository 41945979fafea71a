"""Factors of a convolution's kernel as a tensor with more than two axes."""

from __future__ import annotations

from math import prod

import numpy as np

from trimtab.compress import decompositions as numeric
from trimtab.compress.decompositions import Array
from trimtab.compress.factors.base import COSTLY_RUNGS, Splitter, Stage, shaped, spread
from trimtab.compress.factors.layers import Layer

_LEVELS = 24
"""Shares of the energy to lose at which Tucker ranks are tried."""


class Tucker(Splitter):
    """Fewer channels on both sides of the kernel."""

    name = "tucker"

    def refusal(self, layer: Layer) -> str | None:
        """Refuse what the class does not fit."""
        if not layer.is_convolution:
            return "only convolutions have a kernel between their channels"
        return None if max(layer.kernel) > 1 else "its kernel is a single point: take `svd`"

    def stages(self, layer: Layer, ranks: tuple[int, ...]) -> list[Stage]:
        """List the layers that replace it."""
        made, taken, *kernel = layer.part_shape
        ones = [1] * len(kernel)
        return [
            Stage((ranks[1], taken, *ones)),
            Stage((*ranks, *kernel), axes=tuple(range(len(kernel)))),
            Stage((made, ranks[0], *ones)),
        ]

    def weights(self, layer: Layer, ranks: tuple[int, ...]) -> list[Array]:
        """Decompose the weight."""
        core, outer, inner = numeric.tucker2(layer.weight, (ranks[0], ranks[1]))
        return shaped([inner.T, core, outer], self.stages(layer, ranks))

    def highest(self, layer: Layer) -> tuple[int, ...]:
        """Count to the full rank."""
        made, taken, *kernel = layer.part_shape
        return min(made, taken * prod(kernel)), min(taken, made * prod(kernel))

    def losses(self, layer: Layer) -> list[tuple[tuple[int, ...], float]]:
        """Say what each rank loses."""
        weights = [part.weight for part in layer.parts()]
        tails = [
            numeric.tails([numeric.singular_values(numeric.unfold(w, mode)) for w in weights])
            for mode in (0, 1)
        ]
        found = {}
        for level in np.geomspace(0.5, 1e-6, _LEVELS):
            # The error of a truncated higher-order SVD is at most the sum of both tails.
            ranks = tuple(max(1, int((tail > level / 2).sum())) for tail in tails)
            bound = sum(float(tail[rank]) for tail, rank in zip(tails, ranks, strict=True))
            found[ranks] = min(bound, 1.0)
        return sorted(found.items())


class Cp(Splitter):
    """A sum of products of vectors: the least of parameters, and the hardest to fit."""

    name = "cp"

    def refusal(self, layer: Layer) -> str | None:
        """Refuse what the class does not fit."""
        if not layer.is_convolution:
            return "only convolutions have a kernel between their channels"
        return None if max(layer.kernel) > 1 else "its kernel is a single point: take `svd`"

    def stages(self, layer: Layer, ranks: tuple[int, ...]) -> list[Stage]:
        """List the layers that replace it."""
        (rank,) = ranks
        made, taken, *kernel = layer.part_shape
        ones = [1] * len(kernel)
        lines = [
            Stage((rank, 1, *ones[:axis], size, *ones[axis + 1 :]), group=rank, axes=(axis,))
            for axis, size in enumerate(kernel)
        ]
        return [Stage((rank, taken, *ones)), *lines, Stage((made, rank, *ones))]

    def weights(self, layer: Layer, ranks: tuple[int, ...]) -> list[Array]:
        """Decompose the weight."""
        made, taken, *lines = numeric.cp(layer.weight, ranks[0])
        return shaped([taken.T, *(line.T for line in lines), made], self.stages(layer, ranks))

    def highest(self, layer: Layer) -> tuple[int, ...]:
        """Count to the full rank."""
        shape = layer.part_shape
        return (prod(shape) // max(shape),)

    def losses(self, layer: Layer) -> list[tuple[tuple[int, ...], float]]:
        """Say what each rank loses."""
        # Above this rank the 1x1 convolutions alone cost more than the layer.
        made, taken = layer.part_shape[:2]
        most = min(self.highest(layer)[0], max(1, prod(layer.part_shape) // (made + taken)))
        weights = [part.weight for part in layer.parts()]
        energies = [float(np.square(weight).sum()) for weight in weights]
        total = sum(energies) or 1.0
        return [
            (
                (rank,),
                sum(
                    energy / total * numeric.lost_energy(w, numeric.cp_tensor(numeric.cp(w, rank)))
                    for energy, w in zip(energies, weights, strict=True)
                ),
            )
            for rank in spread(most, COSTLY_RUNGS)
        ]
