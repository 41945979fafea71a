"""Where the tensors of a TFLite file lie.

The file is a flatbuffer (flatbuffers.dev, Internals) of the schema in TensorFlow's schema.fbs.
A tensor names its buffer by number; the buffer has the bytes, or, in files past 2 GiB, says where
behind the flatbuffer they are.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from trimtab.package.coding.segment import Segment, tensor

_MODEL_SUBGRAPHS, _MODEL_BUFFERS = 2, 4
_SUBGRAPH_TENSORS = 0
_TENSOR_SHAPE, _TENSOR_TYPE, _TENSOR_BUFFER = 0, 1, 2
_BUFFER_DATA, _BUFFER_OFFSET, _BUFFER_SIZE = 0, 1, 2
"""Positions of fields in their tables."""

_ELEMENTS = {
    0: (4, True),  # FLOAT32
    1: (2, True),  # FLOAT16
    2: (4, False),  # INT32
    3: (1, False),  # UINT8
    4: (8, False),  # INT64
    6: (1, False),  # BOOL
    7: (2, False),  # INT16
    9: (1, False),  # INT8
    10: (8, True),  # FLOAT64
    12: (8, False),  # UINT64
    15: (4, False),  # UINT32
    16: (2, False),  # UINT16
    18: (2, True),  # BFLOAT16
}
"""By TensorType; smaller ones share a byte."""


def tflite_tensors(data: bytes) -> Iterator[Segment]:
    """Yields the buffers of a TFLite file that hold something.

    Raises:
        struct.error: The bytes are no such flatbuffer.
    """
    model = _u32(data, 0)
    kinds = dict(_kinds(data, model))
    for number, buffer in enumerate(_tables(data, model, _MODEL_BUFFERS)):
        start, stop = _content(data, buffer)
        if start < stop:
            kind, shape = kinds.get(number, (0, ()))
            element = _ELEMENTS.get(kind, (0, False)) if number in kinds else (0, False)
            yield tensor(start, stop, element, shape)


def _kinds(data: bytes, model: int) -> Iterator[tuple[int, tuple[int, tuple[int, ...]]]]:
    """Yields for each tensor the number of its buffer, its type and shape."""
    for subgraph in _tables(data, model, _MODEL_SUBGRAPHS):
        for entry in _tables(data, subgraph, _SUBGRAPH_TENSORS):
            kind = _field(data, entry, _TENSOR_TYPE)
            buffer = _field(data, entry, _TENSOR_BUFFER)
            vector = _follow(data, entry, _TENSOR_SHAPE)
            count = 0 if vector is None else _u32(data, vector)
            shape = () if vector is None else struct.unpack_from(f"<{count}i", data, vector + 4)
            yield (
                0 if buffer is None else _u32(data, buffer),
                (0 if kind is None else data[kind], shape),
            )


def _content(data: bytes, buffer: int) -> tuple[int, int]:
    """Returns where a buffer's bytes start and stop."""
    vector = _follow(data, buffer, _BUFFER_DATA)
    if vector is not None:
        return vector + 4, vector + 4 + _u32(data, vector)
    offset, size = _field(data, buffer, _BUFFER_OFFSET), _field(data, buffer, _BUFFER_SIZE)
    if offset is None or size is None:
        return 0, 0
    start: int = struct.unpack_from("<Q", data, offset)[0]
    length: int = struct.unpack_from("<Q", data, size)[0]
    return start, start + length


def _tables(data: bytes, table: int, field: int) -> Iterator[int]:
    """Yields where the tables in a table's vector of tables begin."""
    vector = _follow(data, table, field)
    for index in range(0 if vector is None else _u32(data, vector)):
        assert vector is not None, "an absent vector has no entries"
        slot = vector + 4 + 4 * index
        yield slot + _u32(data, slot)


def _field(data: bytes, table: int, field: int) -> int | None:
    """Returns where a table's field lies, or None when it is absent."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    entry = 4 + 2 * field
    if vtable < 0 or entry >= struct.unpack_from("<H", data, vtable)[0]:
        return None
    offset: int = struct.unpack_from("<H", data, vtable + entry)[0]
    return table + offset if offset else None


def _follow(data: bytes, table: int, field: int) -> int | None:
    """Returns where a table's offset field points to, or None when the field is absent."""
    at = _field(data, table, field)
    return None if at is None else at + _u32(data, at)


def _u32(data: bytes, at: int) -> int:
    value: int = struct.unpack_from("<I", data, at)[0]
    return value
