"""Factors in pairs: a matrix has one best pair for each rank."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from trimtab.compress import decompositions as numeric
from trimtab.compress.decompositions import Array
from trimtab.compress.factors.base import Splitter, Stage, shaped, spread
from trimtab.compress.factors.layers import Layer

_PAIR_RUNGS = 96


class Svd(Splitter):
    """Two factors: a matrix has one best pair for each rank."""

    name = "svd"

    def refusal(self, layer: Layer) -> str | None:  # noqa: ARG002
        """Refuse nothing: every weight can be laid out as a matrix."""
        return None

    def stages(self, layer: Layer, ranks: tuple[int, ...]) -> list[Stage]:
        """List the layers that replace it."""
        (rank,) = ranks
        if not layer.is_convolution:
            taken, made = layer.weight.shape
            return [Stage((taken, rank)), Stage((rank, made))]
        made, taken, *kernel = layer.part_shape
        axes = tuple(range(len(kernel)))
        return [Stage((rank, taken, *kernel), axes=axes), Stage((made, rank, *[1] * len(kernel)))]

    def weights(self, layer: Layer, ranks: tuple[int, ...]) -> list[Array]:
        """Decompose the weight."""
        left, right = numeric.svd(_wide(layer.weight), ranks[0])
        factors = [right, left] if layer.is_convolution else [left, right]
        return shaped(factors, self.stages(layer, ranks))

    def highest(self, layer: Layer) -> tuple[int, ...]:
        """Count to the full rank."""
        return (min(layer.part_shape[0], prod(layer.part_shape[1:])),)

    def losses(self, layer: Layer) -> list[tuple[tuple[int, ...], float]]:
        """Say what each rank loses."""
        return _by_singular_values([_wide(part.weight) for part in layer.parts()])


class Spatial(Splitter):
    """A column of the kernel, then a row of it."""

    name = "spatial"

    def refusal(self, layer: Layer) -> str | None:
        """Refuse what the class does not fit."""
        if len(layer.kernel) != 2:
            return "only 2-D convolutions have columns and rows"
        return None if min(layer.kernel) > 1 else "its kernel is a line already"

    def stages(self, layer: Layer, ranks: tuple[int, ...]) -> list[Stage]:
        """List the layers that replace it."""
        (rank,) = ranks
        made, taken, height, width = layer.part_shape
        return [
            Stage((rank, taken, height, 1), axes=(0,)),
            Stage((made, rank, 1, width), axes=(1,)),
        ]

    def weights(self, layer: Layer, ranks: tuple[int, ...]) -> list[Array]:
        """Decompose the weight."""
        (rank,) = ranks
        made, taken, height, width = layer.weight.shape
        left, right = numeric.svd(_lines(layer.weight), rank)
        column = left.reshape(taken, height, rank).transpose(2, 0, 1)[..., None]
        row = right.reshape(rank, made, width).transpose(1, 0, 2)[:, :, None]
        return [column, row]

    def highest(self, layer: Layer) -> tuple[int, ...]:
        """Count to the full rank."""
        made, taken, height, width = layer.part_shape
        return (min(taken * height, made * width),)

    def losses(self, layer: Layer) -> list[tuple[tuple[int, ...], float]]:
        """Say what each rank loses."""
        return _by_singular_values([_lines(part.weight) for part in layer.parts()])


def _wide(weight: Array) -> Array:
    return weight.reshape(weight.shape[0], -1)


def _lines(weight: Array) -> Array:
    made, taken, height, width = weight.shape
    return weight.transpose(1, 2, 0, 3).reshape(taken * height, made * width)


def _by_singular_values(matrices: Sequence[Array]) -> list[tuple[tuple[int, ...], float]]:
    tails = numeric.tails([numeric.singular_values(matrix) for matrix in matrices])
    return [((rank,), float(tails[rank])) for rank in spread(len(tails) - 1, _PAIR_RUNGS)]
