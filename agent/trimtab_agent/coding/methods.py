"""Tensors from planes of symbols.

    byte  method      in the header                          in the payload before the first slice
    ----  ----------  -------------------------------------  -------------------------------------
    1     planes      width and rotation, a plane a byte     nothing
    2     palette     width, values - 1, the indices' plane  the values
    3     sparse      width, the mask's plane, a method      what that method has
    4     grid        rows and row length, the codes' plane  a float32 scale for each row
    5     copy        offset in the base                     nothing
    6     difference  width, offset in the base, a method    what that method has
    7     patch       offset and length in the base          nothing
    8     pool        lanes, width and rotation, planes      (`trimtab_agent.coding.pools`)
    9     pooled      number of the pool                     nothing

An element is an unsigned integer of `width` bytes, whatever the tensor's dtype: the codec
reproduces bits. Methods 5 to 7 need the file that the device has, the base of a delta.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trimtab_agent.coding.source import Source, unzstd
from trimtab_agent.coding.symbols import Payload, Reader, plane_reader
from trimtab_agent.errors import FormatError

ROTATED = 0x80
"""Added to a width: elements are rotated left by one bit, which puts a float32's exponent into a
byte of its own and the sign beside the mantissa."""

WIDTHS = (1, 2, 4, 8)

ZERO, OTHER, NEGATIVE_ZERO = range(3)
"""Symbols of a sparse tensor's mask: all bits zero, an element that the inner method has, and only
the top bit set, which is what a negative float times zero leaves."""

MAX_PATCH_BYTES = 1 << 20
_MAX_DEPTH = 3
"""A difference of a sparse tensor of a palette."""

Elements = NDArray[np.unsignedinteger]
ElementReader = Callable[[int], Elements]
"""Reads so many of a tensor's next elements."""


class Method(IntEnum):
    """How a tensor is made; the values are those in the stream."""

    LITERAL = 0
    PLANES = 1
    PALETTE = 2
    SPARSE = 3
    GRID = 4
    COPY = 5
    DIFFERENCE = 6
    PATCH = 7
    POOL = 8
    POOLED = 9


class Base(Protocol):
    """The file that a delta refers to."""

    def read(self, offset: int, count: int) -> bytes:
        """Returns `count` bytes from `offset` on.

        Raises:
            FormatError: The file is shorter.
        """


@dataclass(frozen=True)
class Segment:
    """What a segment's record in a block's header is read with.

    Attributes:
        header: The header, behind the size.
        payload: The payload, where this segment begins.
        base: The file that the stream is a delta of, if it is one.
        size_bytes: Of the segment, decoded.
    """

    header: Source
    payload: Payload
    base: Base | None
    size_bytes: int


def open_segment(segment: Segment, method: int) -> tuple[int, ElementReader]:
    """Reads a segment's record, and what stands in the payload before its first slice.

    Args:
        segment: Where it is.
        method: How it is made; not `LITERAL`, which has no elements.

    Returns:
        The width of its elements in bytes, and their reader.

    Raises:
        FormatError: There is no such method, or its parameters are out of range.
    """
    return _open(segment, method, depth=1)


def _open(segment: Segment, method: int, *, depth: int) -> tuple[int, ElementReader]:
    if depth > _MAX_DEPTH or method not in _METHODS:
        raise FormatError(f"the coded stream has a tensor of the unknown method {method}")
    return _METHODS[Method(method)](segment, depth)


def _inner(segment: Segment, width: int, depth: int) -> ElementReader:
    """Reads the method within another; elements must be as wide."""
    inner_width, read = _open(segment, segment.header.byte(), depth=depth + 1)
    if inner_width != width:
        raise FormatError(f"elements of {inner_width} bytes stand where {width} are expected")
    return read


def _width(value: int) -> int:
    if value not in WIDTHS:
        raise FormatError(f"elements in the coded stream have {value} bytes, not 1, 2, 4 or 8")
    return value


def _plane(segment: Segment) -> Reader:
    return plane_reader(segment.header)(segment.payload)


def _planes(segment: Segment, depth: int) -> tuple[int, ElementReader]:  # noqa: ARG001
    form = segment.header.byte()
    width = element_width(form)
    planes = [_plane(segment) for _ in range(width)]

    def read(count: int) -> Elements:
        if width == 1:
            return planes[0](count)
        octets = np.empty((count, width), np.uint8)
        for index, plane in enumerate(planes):
            octets[:, index] = plane(count)
        return joined(octets, form)

    return width, read


def element_width(form: int) -> int:
    """Returns the width in bytes that a form says, with or without rotation.

    Raises:
        FormatError: There is no such width.
    """
    return _width(form & ~ROTATED)


def joined(octets: NDArray[np.uint8], form: int) -> Elements:
    """Returns elements of their bytes, shape (elements, width), the lowest first.

    Args:
        octets: Contiguous; the elements are made in their place.
        form: The width, and whether elements are rotated.
    """
    width = octets.shape[1]
    elements: Elements = octets.reshape(-1).view(f"<u{width}")
    if form & ROTATED:
        top = elements << (8 * width - 1)
        np.right_shift(elements, 1, out=elements)
        np.bitwise_or(elements, top, out=elements)
    return elements


def _palette(segment: Segment, depth: int) -> tuple[int, ElementReader]:  # noqa: ARG001
    width, count = _width(segment.header.byte()), segment.header.byte() + 1
    indices = _plane(segment)
    values = np.zeros(256, f"<u{width}")  # an index without a value is caught by the file's hash
    values[:count] = np.frombuffer(segment.payload.source.read(count * width), f"<u{width}")
    return width, lambda n: values[indices(n)]


def _sparse(segment: Segment, depth: int) -> tuple[int, ElementReader]:
    width = _width(segment.header.byte())
    mask = _plane(segment)
    values = _inner(segment, width, depth)

    def read(count: int) -> Elements:
        kinds = mask(count)
        places = (kinds == OTHER).nonzero()[0]
        elements = np.zeros(count, f"<u{width}")
        elements[kinds == NEGATIVE_ZERO] = 1 << (8 * width - 1)
        elements[places] = values(places.size)
        return elements

    return width, read


def _grid(segment: Segment, depth: int) -> tuple[int, ElementReader]:  # noqa: ARG001
    rows, length = segment.header.varint(), segment.header.varint()
    if not (rows > 0 and 4 * rows <= segment.size_bytes and length > 0):
        raise FormatError(f"a grid of {rows} rows of {length} is out of range")
    codes = _plane(segment)
    scales = np.frombuffer(segment.payload.source.read(4 * rows), "<f4")
    at = 0

    def read(count: int) -> Elements:
        nonlocal at
        rows_of = (np.arange(at, at + count) // length) % rows
        at += count
        with np.errstate(all="ignore"):  # a hostile scale may be infinite
            values = codes(count).view(np.int8) * scales[rows_of]
        elements: Elements = values.view("<u4")
        return elements

    return 4, read


def _based(segment: Segment) -> tuple[Base, int]:
    if segment.base is None:
        raise FormatError("the coded stream is a delta, and the file it starts from is not here")
    return segment.base, segment.header.varint()


def _copy(segment: Segment, depth: int) -> tuple[int, ElementReader]:  # noqa: ARG001
    base, at = _based(segment)

    def read(count: int) -> Elements:
        nonlocal at
        at += count
        return np.frombuffer(base.read(at - count, count), np.uint8)

    return 1, read


def _difference(segment: Segment, depth: int) -> tuple[int, ElementReader]:
    width = _width(segment.header.byte())
    base, at = _based(segment)
    changes = _inner(segment, width, depth)

    def read(count: int) -> Elements:
        nonlocal at
        before = np.frombuffer(base.read(at, count * width), f"<u{width}")
        at += count * width
        change = changes(count)
        # Zigzag: 0, -1, 1, -2, 2 stand as 0, 1, 2, 3, 4, so that small changes leave high bytes 0.
        after: Elements = before + (change >> 1 ^ -(change & 1).astype(before.dtype))
        return after

    return width, read


def _patch(segment: Segment, depth: int) -> tuple[int, ElementReader]:  # noqa: ARG001
    base, at = _based(segment)
    length = segment.header.varint()
    if not 0 < length <= MAX_PATCH_BYTES:
        raise FormatError(f"a patch refers to {length} bytes, more than {MAX_PATCH_BYTES}")
    prefix = base.read(at, length)

    def read(count: int) -> Elements:
        source = segment.payload.source
        size_bytes = source.varint()
        if size_bytes > count + 64:
            raise FormatError(f"a patch of {size_bytes} bytes is longer than its {count} bytes")
        return np.frombuffer(unzstd(source.read(size_bytes), count, prefix=prefix), np.uint8)

    return 1, read


_METHODS: dict[Method, Callable[[Segment, int], tuple[int, ElementReader]]] = {
    Method.PLANES: _planes,
    Method.PALETTE: _palette,
    Method.SPARSE: _sparse,
    Method.GRID: _grid,
    Method.COPY: _copy,
    Method.DIFFERENCE: _difference,
    Method.PATCH: _patch,
}
