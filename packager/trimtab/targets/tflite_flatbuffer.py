"""A `.tflite` file as objects that can be changed, and back.

The objects are those that the flatbuffer compiler generates of TFLite's schema
(tensorflow/compiler/mlir/lite/schema/schema.fbs), as ai-edge-litert ships them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

IDENTIFIER = b"TFL3"
_LAST_OLD_CODE = 127
"""Operators up to this number are also written where readers of schema version 3a look."""


def unpack(content: bytes) -> Any:
    """Returns the `ModelT` of a file."""
    from ai_edge_litert import schema_py_generated as schema

    return schema.ModelT.InitFromPackedBuf(content, 0)


def pack(model: Any) -> bytes:
    """Returns the file of a `ModelT`, without what says nothing, equal buffers once."""
    import flatbuffers

    _merge_buffers(model)
    for tensor in (tensor for graph in model.subgraphs for tensor in graph.tensors):
        if tensor.quantization is not None and _is_empty(tensor.quantization):
            tensor.quantization = None
    builder = flatbuffers.Builder(sum(_length(buffer) for buffer in model.buffers) + 4096)
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def operator_kind(model: Any, operator: Any) -> int:
    """Returns an operator's number in `BuiltinOperator`."""
    code = model.operatorCodes[operator.opcodeIndex]
    return int(max(code.builtinCode, code.deprecatedBuiltinCode))


def operator_name(model: Any, operator: Any) -> str:
    """Returns an operator's name in `BuiltinOperator`, or that of a custom one."""
    from ai_edge_litert import schema_py_generated as schema

    kind = operator_kind(model, operator)
    if kind == schema.BuiltinOperator.CUSTOM:
        return text(model.operatorCodes[operator.opcodeIndex].customCode)
    return _names(schema.BuiltinOperator)[kind]


def type_name(tensor: Any) -> str:
    """Returns a tensor's element type as the schema calls it, in lower case."""
    from ai_edge_litert import schema_py_generated as schema

    return _names(schema.TensorType)[tensor.type].lower()


def operator_code(model: Any, kind: int, version: int) -> int:
    """Returns the place of an operator among the file's codes; it is added if it is missing.

    Each version has a code of its own: a runtime refuses a file with a version that is newer than
    its kernel, so no other operator of the kind may be made newer than it has to be.
    """
    from ai_edge_litert import schema_py_generated as schema

    for index, code in enumerate(model.operatorCodes):
        if max(code.builtinCode, code.deprecatedBuiltinCode) == kind and code.version == version:
            return index
    code = schema.OperatorCodeT()
    code.builtinCode, code.version = kind, version
    code.deprecatedBuiltinCode = min(kind, _LAST_OLD_CODE)
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def operator_version(model: Any, operator: Any) -> int:
    """Returns the version of an operator's kernel that the file asks for."""
    return int(model.operatorCodes[operator.opcodeIndex].version)


def add_buffer(model: Any, data: NDArray[Any] | bytes) -> int:
    """Returns the number of a new buffer."""
    from ai_edge_litert import schema_py_generated as schema

    buffer = schema.BufferT()
    buffer.data = np.frombuffer(bytes(data), np.uint8)
    model.buffers.append(buffer)
    return len(model.buffers) - 1


def constants(model: Any, graph: Any) -> Iterator[tuple[int, Any]]:
    """Yields the tensors of a subgraph that have contents in the file, with their numbers."""
    for index, tensor in enumerate(graph.tensors):
        if _length(model.buffers[tensor.buffer]):
            yield index, tensor


def contents(model: Any, tensor: Any, dtype: Any) -> NDArray[Any]:
    """Returns a constant's numbers, in its shape."""
    data = np.asarray(model.buffers[tensor.buffer].data, np.uint8)
    shape = () if tensor.shape is None else tuple(int(size) for size in tensor.shape)
    values: NDArray[Any] = data.view(dtype).reshape(shape)
    return values


def text(name: bytes | str | None) -> str:
    """Returns a name as Python's text; the generated objects have it as bytes."""
    return name.decode() if isinstance(name, bytes) else name or ""


def _merge_buffers(model: Any) -> None:
    """Buffer 0 stays first: the schema has it empty, for tensors without contents."""
    from ai_edge_litert import schema_py_generated as schema

    places: dict[bytes, int] = {b"": 0}

    def place(number: int) -> int:
        data = model.buffers[number].data
        return places.setdefault(b"" if data is None else bytes(data), len(places))

    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor.buffer = place(tensor.buffer)
    for entry in model.metadata or ():
        entry.buffer = place(entry.buffer)
    model.metadataBuffer = None
    model.buffers = [schema.BufferT() for _ in places]
    for data, number in places.items():
        model.buffers[number].data = np.frombuffer(data, np.uint8) if data else None


def _is_empty(grid: Any) -> bool:
    """Says whether parameters, which the converter gives every tensor, hold none."""
    return grid.scale is None and grid.min is None and not grid.detailsType


def _length(buffer: Any) -> int:
    return 0 if buffer.data is None else len(buffer.data)


def _names(enumeration: Any) -> dict[int, str]:
    return {number: name for name, number in vars(enumeration).items() if not name.startswith("_")}
