"""Lengths of axes that are known only as formulas: sums of products of free dimensions.

    batch * 4          heads merged with the batch, as PyTorch writes attention
    7 * batch * 32     elements of a tensor

A length that is a plain number is an `int`. All others are of `Length`, and equal formulas are
equal objects, so that it can be *proved* that two axes have the same length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

_Product = tuple[str, ...]
"""Names of free dimensions that are multiplied, sorted; none for a plain number."""


@dataclass(frozen=True)
class Length:
    """A formula.

    Attributes:
        terms: The factor of each product of free dimensions, sorted by product; no zeros.
    """

    terms: tuple[tuple[_Product, int], ...]

    @classmethod
    def free(cls, name: str) -> Length:
        """Returns the length of a free dimension."""
        return cls((((name,), 1),))

    def __add__(self, other: object) -> Any:
        """Returns the sum, an int where all free dimensions cancel out."""
        if not isinstance(other, (int, Length)):
            return NotImplemented
        sums = dict(self.terms)
        for product, factor in _terms(other):
            sums[product] = sums.get(product, 0) + factor
        return _simplest(sums)

    def __mul__(self, other: object) -> Any:
        """Returns the product."""
        if not isinstance(other, (int, Length)):
            return NotImplemented
        sums: dict[_Product, int] = {}
        for product, factor in self.terms:
            for more, times in _terms(other):
                joined = tuple(sorted(product + more))
                sums[joined] = sums.get(joined, 0) + factor * times
        return _simplest(sums)

    __radd__ = __add__
    __rmul__ = __mul__

    def __neg__(self) -> Any:
        """Returns the negative."""
        return self * -1

    def __sub__(self, other: Any) -> Any:
        """Returns the difference."""
        return self + -other

    def __rsub__(self, other: Any) -> Any:
        """Returns the difference."""
        return -self + other

    @cached_property
    def is_length(self) -> bool:
        """Says whether it cannot be negative: nothing is subtracted in it."""
        return all(factor > 0 for _, factor in self.terms)

    def __str__(self) -> str:
        """Returns the formula as text, such as `4*batch + 1`."""
        parts = [(*([str(factor)] if factor != 1 or not p else []), *p) for p, factor in self.terms]
        return " + ".join("*".join(part) for part in reversed(parts))


def divided(length: Length | int, by: Length | int) -> Length | int | None:
    """Returns the quotient where the division is proved to leave no rest, else None.

    Args:
        length: What is divided.
        by: One product, such as `4` or `7 * batch`; other formulas divide themselves alone.
    """
    if length == by and by != 0:
        return 1
    divisor = _terms(by)
    if len(divisor) != 1:
        return None
    (product, factor), sums = divisor[0], dict[_Product, int]()
    for own, times in _terms(length):
        left = list(own)
        for name in product:
            if name not in left:
                return None
            left.remove(name)
        if times % factor:
            return None
        sums[tuple(left)] = times // factor
    return _simplest(sums)


def _terms(length: Length | int) -> tuple[tuple[_Product, int], ...]:
    if isinstance(length, Length):
        return length.terms
    return (((), int(length)),) if length else ()


def _simplest(sums: Mapping[_Product, int]) -> Length | int:
    terms = tuple(sorted((product, factor) for product, factor in sums.items() if factor))
    if not terms:
        return 0
    return terms[0][1] if len(terms) == 1 and not terms[0][0] else Length(terms)
