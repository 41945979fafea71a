"""A piece of a model file that is coded as one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Segment:
    """Consecutive bytes of a file that are coded alike.

    Attributes:
        start: Of its bytes in the file.
        stop: After its last byte.
        kind: A tensor, what stands between tensors, or bytes of which nothing is known.
        width: Bytes of an element; 1 where elements share a byte, and for what is no tensor.
        is_float: Whether elements are floating-point numbers.
        shape: Of a tensor; None if it is unknown, or elements share a byte.
    """

    start: int
    stop: int
    kind: Literal["tensor", "structure", "unknown"] = "tensor"
    width: int = 1
    is_float: bool = False
    shape: tuple[int, ...] | None = None


def tensor(start: int, stop: int, element: tuple[int, bool], shape: tuple[int, ...]) -> Segment:
    """Makes the segment of a tensor.

    Args:
        start: Of its bytes.
        stop: After them.
        element: Width in bytes, and whether it is a floating-point number; of width 0 what is
            unknown or shares a byte.
        shape: Of the tensor, as its file says.
    """
    width, is_float = element
    size = stop - start
    if not width or size % width:
        return Segment(start, stop)
    elements = 1
    for dimension in shape:
        elements *= dimension
    known = elements * width == size and shape
    return Segment(start, stop, "tensor", width, is_float, shape if known else None)
