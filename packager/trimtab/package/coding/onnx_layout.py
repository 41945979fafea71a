"""Where the tensors of an ONNX file lie.

The file is a protobuf message (protobuf.dev, Encoding) of the schema onnx.proto. It is walked as
bytes: only the raw contents of tensors are wanted, and where exactly they are.
"""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.package.coding.segment import Segment, tensor

_LENGTH_DELIMITED = 2
_FIXED_SIZES = {1: 8, 5: 4}
"""Bytes of the fixed-size wire types."""

_TENSORS = ((7, 5), (7, 1, 5, 5))
"""Field numbers that lead to a TensorProto: graph.initializer, and graph.node.attribute.t."""

_DIMS, _DATA_TYPE, _FLOAT_DATA, _RAW_DATA = 1, 2, 4, 9

_ELEMENTS = {
    1: (4, True),  # FLOAT
    2: (1, False),  # UINT8
    3: (1, False),  # INT8
    4: (2, False),  # UINT16
    5: (2, False),  # INT16
    6: (4, False),  # INT32
    7: (8, False),  # INT64
    9: (1, False),  # BOOL
    10: (2, True),  # FLOAT16
    11: (8, True),  # DOUBLE
    12: (4, False),  # UINT32
    13: (8, False),  # UINT64
    16: (2, True),  # BFLOAT16
}
"""By TensorProto.DataType; smaller ones share a byte."""

Field = tuple[int, int, int, int]
"""Number of a field, its value if it is an integer, and where its content starts and stops."""


def onnx_tensors(data: bytes) -> Iterator[Segment]:
    """Yields the tensors of an ONNX file.

    Raises:
        ValueError: The bytes are no protobuf message.
        IndexError: They end within a field.
    """
    for path in _TENSORS:
        for start, stop in _walk(data, 0, len(data), path):
            yield from _tensor(data, start, stop)


def _tensor(data: bytes, start: int, stop: int) -> Iterator[Segment]:
    """Yields the content of one TensorProto, if it stands in one piece."""
    shape: list[int] = []
    kind = 0
    content: tuple[int, int] | None = None
    for number, value, first, last in _fields(data, start, stop):
        if number == _DIMS and first < last:
            shape.extend(_varints(data, first, last))
        elif number == _DIMS:
            shape.append(value)
        elif number == _DATA_TYPE:
            kind = value
        elif number in (_RAW_DATA, _FLOAT_DATA) and first < last:
            content = first, last
    if content:
        yield tensor(*content, _ELEMENTS.get(kind, (0, False)), tuple(shape))


def _walk(data: bytes, start: int, stop: int, path: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Yields where the messages at `path` lie in the message in `data[start:stop]`."""
    for number, _, first, last in _fields(data, start, stop):
        if number != path[0] or first == last:
            continue
        if len(path) == 1:
            yield first, last
        else:
            yield from _walk(data, first, last, path[1:])


def _fields(data: bytes, at: int, stop: int) -> Iterator[Field]:
    """Yields the fields of a message; integers have no content, messages and bytes no value."""
    while at < stop:
        key, at = _varint(data, at)
        wire_type = key & 7
        if wire_type == _LENGTH_DELIMITED:
            length, at = _varint(data, at)
            if at + length > stop:
                raise ValueError(f"field at {at} ends past its message")
            yield key >> 3, 0, at, at + length
            at += length
        elif wire_type == 0:
            value, at = _varint(data, at)
            yield key >> 3, value, at, at
        elif wire_type in _FIXED_SIZES:
            at += _FIXED_SIZES[wire_type]
        else:
            raise ValueError(f"wire type {wire_type} at {at} is not one of proto3")


def _varints(data: bytes, at: int, stop: int) -> Iterator[int]:
    while at < stop:
        value, at = _varint(data, at)
        yield value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Returns the base-128 integer at `at`, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
