"""A file as what changed since another version of it that a device has.

Segments of the two versions are paired: first by equal content, then by their order among those
of the same size. What is equal is copied from the device's disk. Of a tensor that changed, the
differences of its elements are coded by the same methods as weights: a quantized model whose
weights moved by a step here and there has differences of 0, 1 and -1, and most are 0.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from trimtab.package.coding.payload import Payload, varint
from trimtab.package.coding.planes import zstd_frame
from trimtab.package.coding.segment import Segment
from trimtab.package.coding.tensors import (
    CodedTensor,
    Elements,
    Tensor,
    code_elements,
    even_slices,
)
from trimtab_agent.coding.methods import MAX_PATCH_BYTES, Method


class Pairs:
    """For each segment of a file, its counterpart in another version.

    Args:
        base: The other version.
        segments: What it consists of.
    """

    def __init__(self, base: bytes, segments: Sequence[Segment]) -> None:
        self._base = base
        self._equal: dict[bytes, int] = {}
        self._alike: defaultdict[tuple[object, ...], list[Segment]] = defaultdict(list)
        for segment in segments:
            self._equal.setdefault(base[segment.start : segment.stop], segment.start)
            self._alike[_kind(segment)].append(segment)
        self._taken: defaultdict[tuple[object, ...], int] = defaultdict(int)

    def find(self, segment: Segment, piece: bytes) -> tuple[bool, int, bytes] | None:
        """Returns the counterpart of the next segment.

        Args:
            segment: Segments are given in the order of their file.
            piece: Its content.

        Returns:
            Whether the counterpart is equal, where it begins, and its content; None if there is
            none.
        """
        kind = _kind(segment)
        number = self._taken[kind]
        self._taken[kind] += 1
        if piece in self._equal:
            return True, self._equal[piece], piece
        alike = self._alike[kind]
        if number >= len(alike):
            return None
        other = alike[number]
        return False, other.start, self._base[other.start : other.stop]


def _kind(segment: Segment) -> tuple[object, ...]:
    """Returns what counterparts have in common; only tensors keep their size."""
    if segment.kind != "tensor":
        return (segment.kind,)
    return segment.kind, segment.width, segment.stop - segment.start


def code_difference(piece: bytes, before: bytes, at: int, segment: Segment) -> CodedTensor:
    """Codes a tensor as its differences from another of the same size.

    Args:
        piece: Its bytes.
        before: Those of the other.
        at: Where that one begins in the base.
        segment: What the tensor is.
    """
    width = segment.width
    elements = np.frombuffer(piece, f"<u{width}")
    change = elements - np.frombuffer(before, f"<u{width}")
    tensor = Tensor(_zigzag(change), even_slices(elements.size, width), False, segment.shape)
    inner = code_elements(tensor)
    record = bytes([Method.DIFFERENCE, width]) + varint(at) + inner.record
    return CodedTensor(width, record, inner.prologue, inner.cost_bytes + 4, inner.write)


def code_patch(piece: bytes, before: bytes, at: int) -> CodedTensor:
    """Codes bytes as a zstd frame that refers back to others.

    Args:
        piece: What is to be coded.
        before: What it may refer to, not empty; only the first megabyte is used.
        at: Where that begins in the base.
    """
    prefix = before[:MAX_PATCH_BYTES]
    frames = {
        (start, stop): zstd_frame(piece[start:stop], level=19, prefix=prefix)
        for start, stop in even_slices(len(piece), 1)
    }

    def write(payload: Payload, start: int, stop: int) -> None:
        frame = frames[start, stop]
        payload.raw(varint(len(frame)) + frame)

    record = bytes([Method.PATCH]) + varint(at) + varint(len(prefix))
    return CodedTensor(1, record, b"", sum(map(len, frames.values())) + 8, write)


def copied(at: int) -> CodedTensor:
    """Returns the tensor that is the base's bytes from `at` on."""
    return CodedTensor(1, bytes([Method.COPY]) + varint(at), b"", 8, lambda *_: None)


def _zigzag(change: Elements) -> Elements:
    """Returns 0, 1, 2, 3, 4, ... for 0, -1, 1, -2, 2, ... of wrapping unsigned integers."""
    signed = change.view(f"<i{change.itemsize}")
    bits: Elements = (signed << 1 ^ signed >> (8 * change.itemsize - 1)).view(change.dtype)
    return bits
