"""Where the tensors of a model file begin and end.

Chunks are cut at these offsets, so that a model of which some layers changed shares the other
layers' chunks with the version before, even where a longer header has moved them. The offsets
decide only how much two versions share: a file that is not understood has none, and packs just
as well.
"""

from __future__ import annotations

import struct
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

MIN_TENSOR_BYTES = 4096
"""Smaller tensors stay together with their neighbours: a cut each would make tiny chunks."""

_LENGTH_DELIMITED = 2
_FIXED_SIZES = {1: 8, 5: 4}
"""Bytes of the fixed-size wire types (protobuf.dev, Encoding)."""

_ONNX_RAW_DATA = ((7, 5, 9), (7, 1, 5, 5, 9))
"""Field numbers in onnx.proto that lead to `raw_data`: graph.initializer, and the tensors of
Constant nodes, graph.node.attribute.t."""

_TFLITE_BUFFERS = 4
"""Position of `Model.buffers` among the fields of the table (TFLite's schema.fbs)."""


def boundaries(path: str, data: bytes) -> list[int]:
    """Returns the offsets at which tensors of at least `MIN_TENSOR_BYTES` begin and end.

    Args:
        path: The file's path; its suffix tells the format.
        data: The whole file.

    Returns:
        Offsets in rising order; none when the format is unknown or the file is not understood.
    """
    spans = _FORMATS.get(PurePosixPath(path).suffix)
    if spans is None:
        return []
    try:
        found = [(start, end) for start, end in spans(data) if end - start >= MIN_TENSOR_BYTES]
    except (struct.error, IndexError, ValueError):
        # Not what its suffix says. Whether it is a model is for the runtime to decide.
        return []
    inside = {at for span in found for at in span if 0 < at < len(data)}
    return sorted(inside)


def openvino_boundaries(xml: bytes) -> list[int]:
    """Returns the offsets of the constants in an OpenVINO `.bin` file.

    Args:
        xml: The `.xml` file beside it: its Const layers give offset and size.
    """
    try:
        root = ET.fromstring(xml)  # noqa: S314 - the host's own export, read on the host
    except ET.ParseError:
        return []
    offsets: set[int] = set()
    for element in root.iterfind("./layers/layer/data[@offset][@size]"):
        offset, size = int(element.attrib["offset"]), int(element.attrib["size"])
        if size >= MIN_TENSOR_BYTES:
            offsets |= {offset, offset + size}
    return sorted(offsets - {0})


def _onnx_spans(data: bytes) -> Iterator[tuple[int, int]]:
    for path in _ONNX_RAW_DATA:
        yield from _walk(data, 0, len(data), path)


def _walk(data: bytes, start: int, end: int, path: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Yields where the fields at `path` lie in the protobuf message in `data[start:end]`."""
    for number, first, last in _fields(data, start, end):
        if number != path[0]:
            continue
        if len(path) == 1:
            yield first, last
        else:
            yield from _walk(data, first, last, path[1:])


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yields number, start and end of every length-delimited field of a protobuf message."""
    while at < end:
        key, at = _varint(data, at)
        wire_type = key & 7
        if wire_type == _LENGTH_DELIMITED:
            length, at = _varint(data, at)
            if at + length > end:
                raise ValueError(f"field at {at} ends past its message")
            yield key >> 3, at, at + length
            at += length
        elif wire_type == 0:
            _, at = _varint(data, at)
        elif wire_type in _FIXED_SIZES:
            at += _FIXED_SIZES[wire_type]
        else:
            raise ValueError(f"wire type {wire_type} at {at} is not one of proto3")


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


def _tflite_spans(data: bytes) -> Iterator[tuple[int, int]]:
    """Yields where `Model.buffers[i].data` lies (flatbuffers.dev, Internals)."""
    model = _u32(data, 0)
    buffers = _follow(data, model, _TFLITE_BUFFERS)
    if buffers is None:
        return
    for index in range(_u32(data, buffers)):
        slot = buffers + 4 + 4 * index
        content = _follow(data, slot + _u32(data, slot), 0)
        if content is not None:
            yield content + 4, content + 4 + _u32(data, content)


def _follow(data: bytes, table: int, field: int) -> int | None:
    """Returns where a table's offset field points to, or None when the field is absent."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    entry = 4 + 2 * field
    if vtable < 0 or entry >= struct.unpack_from("<H", data, vtable)[0]:
        return None
    offset: int = struct.unpack_from("<H", data, vtable + entry)[0]
    if offset == 0:
        return None
    return table + offset + _u32(data, table + offset)


def _u32(data: bytes, at: int) -> int:
    value: int = struct.unpack_from("<I", data, at)[0]
    return value


_FORMATS: dict[str, Callable[[bytes], Iterator[tuple[int, int]]]] = {
    ".onnx": _onnx_spans,
    ".tflite": _tflite_spans,
}
