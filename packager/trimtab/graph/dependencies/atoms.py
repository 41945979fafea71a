"""Atoms: the smallest things that can be kept or dropped, tied together by union-find."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

LabelArray = npt.NDArray[np.int64]

FROZEN = 0
"""The atom that is always kept. Whatever is tied to it is kept too."""


class Atoms:
    """A disjoint-set forest over atoms, addressed by arrays of atom numbers.

    The root of a class is its smallest atom. So `FROZEN` is the root of every class it is in, and
    results do not depend on the order in which ties were made.

    Attributes:
        cause: Why what is frozen from now on is kept, for people to read.
    """

    def __init__(self) -> None:
        self._parents = np.array([FROZEN], dtype=np.int64)
        self._causes: dict[int, str] = {}
        self.cause = "it is kept"

    def create(self, count: int) -> LabelArray:
        """Make new atoms.

        Args:
            count: How many.

        Returns:
            Their numbers, shape (count,).
        """
        first = len(self._parents)
        fresh = np.arange(first, first + count, dtype=np.int64)
        self._parents = np.concatenate([self._parents, fresh])
        return fresh

    def find(self, labels: LabelArray) -> LabelArray:
        """Return the root of every atom in `labels`, in the same shape."""
        roots = self._parents[labels]
        while not np.array_equal(above := self._parents[roots], roots):
            roots = above
        return roots

    def tie(self, first: LabelArray, second: LabelArray) -> None:
        """Keep or drop together each atom of `first` with the one at its place in `second`.

        Args:
            first: Atoms, of any shape.
            second: Atoms, of a shape that broadcasts with that of `first`.
        """
        pairs = np.stack(np.broadcast_arrays(self.find(first), self.find(second)), axis=-1)
        for one, other in np.unique(pairs.reshape(-1, 2), axis=0):
            low, high = sorted((self._root(one), self._root(other)))
            self._parents[high] = low
            if low == FROZEN != high:
                self._causes[high] = self.cause

    def freeze(self, labels: LabelArray) -> None:
        """Keep every atom in `labels`, and whatever is tied to one of them."""
        self.tie(labels, np.array(FROZEN))

    def cause_of(self, atom: int) -> str | None:
        """Return why an atom is kept; None if it is free, or `FROZEN` itself."""
        while (parent := int(self._parents[atom])) != atom:
            if parent == FROZEN:
                return self._causes[atom]
            atom = parent
        return None

    def _root(self, atom: np.int64) -> int:
        root = int(atom)
        while (parent := int(self._parents[root])) != root:
            root = parent
        return root
