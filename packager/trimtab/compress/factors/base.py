"""What a method of factorization is, and what it says of a layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Literal

import numpy as np

from trimtab.compress.decompositions import Array
from trimtab.compress.factors.layers import Layer

Method = Literal["svd", "spatial", "tucker", "cp", "tensor_train"]

COSTLY_RUNGS = 8
"""How many ranks are tried by methods that must decompose to know their error."""


@dataclass(frozen=True)
class Stage:
    """One of the layers that replace a layer, or a group of a convolution.

    Attributes:
        shape: Of its weight; for a train's core (rank before, in, out, rank after).
        group: Of a convolution; times the groups of the layer.
        axes: The kernel axes that a convolution covers, so that their strides and pads are its.
    """

    shape: tuple[int, ...]
    group: int = 1
    axes: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One way to replace a layer.

    Attributes:
        method: Its name.
        ranks: The ranks.
        lost: The share of the weight's energy that is lost; for `tucker` at most.
        parameters: Of all stages, without the bias.
        macs: Of all stages, for a batch of one.
    """

    method: Method
    ranks: tuple[int, ...]
    lost: float
    parameters: int
    macs: int


class Splitter(ABC):
    """A method."""

    name: Method

    @abstractmethod
    def refusal(self, layer: Layer) -> str | None:
        """Return why the method does not fit the layer, None where it does."""

    @abstractmethod
    def stages(self, layer: Layer, ranks: tuple[int, ...]) -> list[Stage]:
        """Return the layers that replace each group."""

    @abstractmethod
    def weights(self, layer: Layer, ranks: tuple[int, ...]) -> list[Array]:
        """Return the weights of the stages of a layer without groups, in float64."""

    @abstractmethod
    def highest(self, layer: Layer) -> tuple[int, ...]:
        """Return the ranks at which nothing is lost."""

    @abstractmethod
    def losses(self, layer: Layer) -> list[tuple[tuple[int, ...], float]]:
        """Return ranks, rising, with the share of the energy that each loses."""

    def grouped_stages(self, layer: Layer, ranks: tuple[int, ...]) -> list[Stage]:
        """Return the layers that replace it: those of its groups, side by side."""
        return [
            replace(
                stage,
                shape=(stage.shape[0] * layer.groups, *stage.shape[1:]),
                group=stage.group * layer.groups,
            )
            for stage in self.stages(layer, ranks)
        ]

    def grouped_weights(self, layer: Layer, ranks: tuple[int, ...]) -> list[Array]:
        """Return the weights of `grouped_stages`, in float64."""
        parts = [self.weights(part, ranks) for part in layer.parts()]
        return [np.concatenate(same) for same in zip(*parts, strict=True)]

    def ladder(self, layer: Layer) -> list[Rung]:
        """Return what the method can do to a layer, from the lowest rank to the highest."""
        return [self.rung(layer, ranks, lost) for ranks, lost in self.losses(layer)]

    def rung(self, layer: Layer, ranks: tuple[int, ...], lost: float) -> Rung:
        """Return one way to replace a layer, with its cost."""
        stages = self.grouped_stages(layer, ranks)
        return Rung(
            method=self.name,
            ranks=ranks,
            lost=lost,
            parameters=sum(prod(stage.shape) for stage in stages),
            macs=self.macs(layer, stages),
        )

    def macs(self, layer: Layer, stages: Sequence[Stage]) -> int:
        """Return the multiply-accumulates of the stages, one after another."""
        covered: set[int] = set()
        total = 0
        for place, stage in enumerate(stages):
            covered.update(stage.axes)
            lengths = [
                after if axis in covered else before
                for axis, (before, after) in enumerate(zip(layer.before, layer.after, strict=True))
            ]
            looked_up = layer.kind == "table" and place == 0
            total += 0 if looked_up else prod(stage.shape) * prod(lengths)
        return total


def spread(most: int, count: int) -> list[int]:
    """Return up to `count` ranks from 1 to `most`, all where there are few."""
    if most <= count:
        return list(range(1, most + 1))
    return sorted({round(rank) for rank in np.geomspace(1, most, count)})


def shaped(weights: Sequence[Array], stages: Sequence[Stage]) -> list[Array]:
    """Give each weight the shape that its stage says."""
    return [array.reshape(stage.shape) for array, stage in zip(weights, stages, strict=True)]
