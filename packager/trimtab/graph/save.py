"""A graph to a file without copies of its weights in memory.

`onnx_ir.save` makes a protobuf of the whole model and then its bytes: three times the weights. Here
weights go to the file one by one, either inside it (`save_whole`) or beside it (`save_beside`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

LARGE_BYTES = 32 * 1024**2
"""Smaller models are written by the library: their copies cost nothing."""

_LENGTH_DELIMITED = 2
_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_RAW_DATA = 7, 5, 9
"""Field numbers of onnx.proto: ModelProto.graph, GraphProto.initializer, TensorProto.raw_data."""


def weight_bytes(model: ir.Model) -> int:
    """Returns the bytes of all weights outside of branches and loops."""
    stored = (value.const_value for value in model.graph.initializers.values())
    return sum(tensor.nbytes for tensor in stored if tensor is not None)


def save_beside(model: ir.Model, path: Path) -> tuple[Path, ...]:
    """Writes a model; the weights of a large one into a second file, from which runtimes map them.

    Returns:
        The files, the one to load first.
    """
    if weight_bytes(model) < LARGE_BYTES:
        ir.save(model, path)
        return (path,)
    weights = path.with_name(f"{path.name}.data")
    ir.save(model, path, external_data=weights.name)
    return path, weights


def save_whole(model: ir.Model, path: Path) -> None:
    """Writes a model into one file."""
    if weight_bytes(model) < LARGE_BYTES:
        ir.save(model, path)
        return
    frame = model.clone()
    tensors = [
        value.const_value
        for value in frame.graph.initializers.values()
        if value.const_value is not None
    ]
    frame.graph.initializers.clear()
    proto = ir.to_proto(frame)
    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")
    pieces = [_head(tensor) for tensor in tensors]
    length = len(graph) + sum(
        len(_key(_GRAPH_INITIALIZER, len(head) + tensor.nbytes)) + len(head) + tensor.nbytes
        for head, tensor in zip(pieces, tensors, strict=True)
    )
    with path.open("wb") as file:
        file.write(proto.SerializeToString() + _key(_MODEL_GRAPH, length) + graph)
        for head, tensor in zip(pieces, tensors, strict=True):
            file.write(_key(_GRAPH_INITIALIZER, len(head) + tensor.nbytes) + head)
            file.write(tensor.numpy().data if _is_plain(tensor) else tensor.tobytes())


def _is_plain(tensor: ir.TensorProtocol) -> bool:
    """Says whether an array's own memory is what ONNX wants: no packed types, in C order."""
    array = tensor.numpy()
    return array.nbytes == tensor.nbytes and array.flags.c_contiguous and array.dtype.kind in "fiu"


def _head(tensor: ir.TensorProtocol) -> bytes:
    """Returns a TensorProto up to its raw data, which are to follow."""
    import onnx

    head = onnx.TensorProto(
        name=tensor.name or "", dims=tensor.shape.numpy(), data_type=int(tensor.dtype)
    )
    return bytes(head.SerializeToString()) + _key(_TENSOR_RAW_DATA, tensor.nbytes)


def _key(field: int, length: int) -> bytes:
    """Returns what stands before a field of so many bytes (protobuf.dev, "Encoding")."""
    return bytes(_varint(field << 3 | _LENGTH_DELIMITED)) + bytes(_varint(length))


def _varint(number: int) -> Iterator[int]:
    while number > 0x7F:
        yield number & 0x7F | 0x80
        number >>= 7
    yield number
