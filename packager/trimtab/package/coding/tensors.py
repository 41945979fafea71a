"""A tensor, by the method that makes it smallest.

Every method that could fit is tried, and the one with the fewest bytes taken. What tensors look
like decides: trained floats have exponents worth coding and mantissas that are noise; clustered
ones a palette; pruned ones a mask; floats that were integers times a scale are a grid again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from trimtab.package.coding.grids import find_grid
from trimtab.package.coding.payload import Payload, varint
from trimtab.package.coding.planes import CodedPlane, Slices, code_plane, zstd_plane
from trimtab_agent.coding.methods import NEGATIVE_ZERO, OTHER, ROTATED, ZERO, Method
from trimtab_agent.coding.stream import SLICE_BYTES

Elements = NDArray[np.unsignedinteger]

_PALETTE_VALUES = 256
_SAMPLE = 4096
"""Elements that show whether a tensor can have few values."""

_NOISE = 0.8
"""What no method makes smaller than this is as well coded byte by byte, beside others."""

_SPARSE_SHARE = 0.02
"""Fewer zeros than this are not worth a mask."""


@dataclass(frozen=True)
class Tensor:
    """What is to be coded.

    Attributes:
        elements: Its bits, an unsigned integer for each element, in memory order.
        slices: In which they are written.
        is_float: Whether they are floating-point numbers.
        shape: None if places mean nothing.
    """

    elements: Elements
    slices: Slices
    is_float: bool
    shape: tuple[int, ...] | None = None

    @property
    def width(self) -> int:
        """Bytes of an element."""
        return self.elements.itemsize


@dataclass(frozen=True)
class CodedTensor:
    """A tensor and how to write it.

    Attributes:
        width: Bytes of an element.
        record: Its method and what that has, as in the block's header, without the size.
        prologue: What stands in the payload before the first slice.
        cost_bytes: About what it takes in the stream.
        write: Puts the elements of a slice, from its start to its stop, into a payload.
        dense: The tensor, if its elements may as well be written byte by byte, beside others.
    """

    width: int
    record: bytes
    prologue: bytes
    cost_bytes: float
    write: Callable[[Payload, int, int], None]
    dense: Tensor | None = None


def even_slices(elements: int, width: int) -> Slices:
    """Returns the slices of a tensor of so many elements of `width` bytes."""
    step = SLICE_BYTES // width
    return [(start, min(start + step, elements)) for start in range(0, elements, step)]


def code_tensor(tensor: Tensor) -> CodedTensor:
    """Codes a tensor in the cheapest way."""
    best = min(_candidates(tensor), key=lambda candidate: candidate.cost_bytes)
    if best.cost_bytes > _NOISE * tensor.elements.nbytes:
        return replace(best, dense=tensor)
    return best


def code_elements(tensor: Tensor) -> CodedTensor:
    """Codes a tensor in the cheapest way that looks at elements one by one."""
    candidates = [*_sparse(tensor), *_dense(tensor)]
    return min(candidates, key=lambda candidate: candidate.cost_bytes)


def _candidates(tensor: Tensor) -> Iterator[CodedTensor]:
    yield from _sparse(tensor)
    grid = _grid(tensor)
    if grid:
        yield grid
    else:
        yield from _dense(tensor)
    if tensor.width > 1:
        yield _repetitions(tensor)


def _dense(tensor: Tensor) -> Iterator[CodedTensor]:
    """Yields the methods that look at elements one by one."""
    values = _few_values(tensor.elements)
    if values is not None:
        yield _palette(tensor, values)
    if values is None or tensor.width == 1:
        yield _planes(tensor)


def _few_values(elements: Elements) -> Elements | None:
    """Returns the distinct values in rising order if they fit a palette, else None."""
    if np.unique(elements[:: max(1, elements.size // _SAMPLE)]).size > _PALETTE_VALUES:
        return None
    values: Elements = np.unique(elements)
    return values if values.size <= _PALETTE_VALUES else None


def _palette(tensor: Tensor, values: Elements) -> CodedTensor:
    # Symbols that are neighbours by value have similar frequencies, which makes the table small.
    by_value = np.argsort(_order(values, tensor), kind="stable")
    ranks = np.empty(values.size, np.uint8)
    ranks[by_value] = np.arange(values.size)
    indices = ranks[np.searchsorted(values, tensor.elements)]
    record = bytes([Method.PALETTE, tensor.width, values.size - 1])
    plane = code_plane(indices, tensor.slices, tensor.shape)
    return _one_plane(tensor.width, record, plane, values[by_value].tobytes())


def _order(values: Elements, tensor: Tensor) -> Elements:
    """Returns unsigned integers that sort as the numbers that the bits stand for."""
    top = values.dtype.type(1 << (8 * tensor.width - 1))
    if not tensor.is_float:
        return values ^ top
    return np.where(values & top, ~values, values | top)


def _sparse(tensor: Tensor) -> Iterator[CodedTensor]:
    """Yields a mask and what it leaves, if there are zeros enough."""
    # Shifted left, a float's negative zero is zero too.
    zeros = 1 - np.count_nonzero(tensor.elements << np.uint8(1)) / tensor.elements.size
    if not _SPARSE_SHARE < zeros < 1:
        return
    kinds = np.where(tensor.elements == 0, np.uint8(ZERO), np.uint8(OTHER))
    if tensor.is_float:
        kinds[tensor.elements == 1 << (8 * tensor.width - 1)] = NEGATIVE_ZERO
    mask = kinds == OTHER
    plane = code_plane(kinds, tensor.slices)
    counts = [np.count_nonzero(mask[start:stop]) for start, stop in tensor.slices]
    ends = np.cumsum([0, *counts]).tolist()
    places = dict(zip(tensor.slices, pairwise(ends), strict=True))
    rest = Tensor(tensor.elements[mask], list(places.values()), tensor.is_float)
    inner = min(_dense(rest), key=lambda candidate: candidate.cost_bytes)

    def write(payload: Payload, start: int, stop: int) -> None:
        plane.write(payload, start, stop)
        inner.write(payload, *places[start, stop])

    record = bytes([Method.SPARSE, tensor.width]) + plane.header + inner.record
    cost = plane.cost_bytes + inner.cost_bytes
    yield CodedTensor(tensor.width, record, inner.prologue, cost, write)


def _grid(tensor: Tensor) -> CodedTensor | None:
    if not (tensor.is_float and tensor.width == 4):
        return None
    grid = find_grid(tensor.elements, tensor.shape)
    if grid is None:
        return None
    plane = code_plane(grid.codes.view(np.uint8), tensor.slices, tensor.shape)
    record = bytes([Method.GRID]) + varint(grid.scales.size) + varint(grid.length)
    return _one_plane(4, record, plane, grid.scales.astype("<f4").tobytes())


def byte_planes(tensor: Tensor) -> tuple[int, list[NDArray[np.uint8]]]:
    """Returns a tensor's byte planes, the lowest first, and their form.

    Of floats the exponent is in one and the sign in another.
    """
    width, form, turned = tensor.width, tensor.width, tensor.elements
    if tensor.is_float and width > 1:
        form |= ROTATED
        turned = turned << np.uint8(1) | turned >> np.uint8(8 * width - 1)
    octets = turned.view(np.uint8).reshape(-1, width)
    return form, [np.ascontiguousarray(octets[:, index]) for index in range(width)]


def _planes(tensor: Tensor) -> CodedTensor:
    form, octets = byte_planes(tensor)
    planes = [code_plane(plane, tensor.slices, tensor.shape) for plane in octets]

    def write(payload: Payload, start: int, stop: int) -> None:
        for plane in planes:
            plane.write(payload, start, stop)

    record = bytes([Method.PLANES, form]) + b"".join(plane.header for plane in planes)
    cost = sum(plane.cost_bytes for plane in planes)
    return CodedTensor(tensor.width, record, b"", cost, write, tensor)


def _repetitions(tensor: Tensor) -> CodedTensor:
    """Codes the bytes as they are, of which zstd may find repetitions."""
    width = tensor.width
    octets = tensor.elements.view(np.uint8)
    plane = zstd_plane(octets, [(start * width, stop * width) for start, stop in tensor.slices])
    return _one_plane(1, bytes([Method.PLANES, 1]), plane, b"")


def _one_plane(width: int, record: bytes, plane: CodedPlane, prologue: bytes) -> CodedTensor:
    cost = plane.cost_bytes + len(prologue)
    return CodedTensor(width, record + plane.header, prologue, cost, plane.write)
