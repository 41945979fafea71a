"""Equations of Einsum with two operands."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Letters:
    """The axes of both operands and of the result, one letter each."""

    left: str
    right: str
    result: str

    def swapped(self) -> Letters:
        """Returns the letters with the operands the other way round."""
        return Letters(self.right, self.left, self.result)


def parse_equation(equation: str) -> Letters | None:
    """Reads an equation.

    Returns:
        The letters; None for another number of operands, an ellipsis, an implied result, or a
        letter that occurs twice in one operand (a diagonal).
    """
    operands, arrow, result = equation.replace(" ", "").partition("->")
    left, comma, right = operands.partition(",")
    parts = (left, right, result)
    if not arrow or not comma or any(len(set(part)) != len(part) for part in parts):
        return None
    return Letters(*parts) if all(part.isalpha() or not part for part in parts) else None
