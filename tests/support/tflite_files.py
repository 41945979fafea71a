"""`.tflite` files taken apart, changed and put together, and sparse weights for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema


def read(content: bytes) -> Any:
    return schema.ModelT.InitFromPackedBuf(content, 0)


def write(model: Any) -> bytes:
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def operators(content: bytes) -> set[str]:
    """The names of a file's operators."""
    names = {code: name for name, code in vars(schema.BuiltinOperator).items()}
    return {names[max(c.builtinCode, c.deprecatedBuiltinCode)] for c in read(content).operatorCodes}


def dense_level(size: int) -> Any:
    level = schema.DimensionMetadataT()
    level.format, level.denseSize = 0, size
    return level


def csr_level(segments: Sequence[int], indices: Sequence[int]) -> Any:
    level = schema.DimensionMetadataT()
    level.format = 1
    level.arraySegmentsType = level.arrayIndicesType = schema.SparseIndexVector.Int32Vector
    level.arraySegments, level.arrayIndices = schema.Int32VectorT(), schema.Int32VectorT()
    level.arraySegments.values, level.arrayIndices.values = list(segments), list(indices)
    return level


def sparsity(order: Sequence[int], levels: Sequence[Any], blocks: Sequence[int] = ()) -> Any:
    made = schema.SparsityParametersT()
    made.traversalOrder, made.dimMetadata, made.blockMap = list(order), list(levels), list(blocks)
    return made


def block_sparsity(kept: np.ndarray, first: int) -> Any:
    """Sparsity of a matrix in blocks of 2 rows: `kept` says which blocks are stored.

    Args:
        kept: Booleans, blocks down and columns across.
        first: The dimension that is traversed first: 0 rows, 1 columns.
    """
    lines = kept if first == 0 else kept.T
    counts = lines.sum(axis=1)
    segments = [0, *np.cumsum(counts).tolist()]
    levels = [
        dense_level(len(lines)),
        csr_level(segments, np.nonzero(lines)[1].tolist()),
        dense_level(2),
    ]
    return sparsity([first, 1 - first, 2], levels, blocks=[0])


def pack(values: np.ndarray, bits: int) -> np.ndarray:
    """Several integers a byte, the first in the low bits."""
    fields = (values.astype(np.int64) & (2**bits - 1)).reshape(-1, 8 // bits)
    return (fields << np.arange(0, 8, bits)).sum(axis=1).astype(np.uint8)


def lstm_file(weights: Sequence[np.ndarray], steps: int) -> bytes:
    """A file of one UNIDIRECTIONAL_SEQUENCE_LSTM, as TensorFlow 2's converter wrote Keras 2's.

    Args:
        weights: 4 of the input `[hidden, features]`, 4 recurrent `[hidden, hidden]`, 4 biases.
        steps: Length of the input `[1, steps, features]`.
    """
    hidden, features = weights[0].shape
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.buffers = 3, [schema.BufferT()]
    graph.tensors = []

    def tensor(name: str, shape: Sequence[int], data: np.ndarray | None = None) -> int:
        made = schema.TensorT()
        made.name, made.shape, made.type = name, list(shape), schema.TensorType.FLOAT32
        made.isVariable = name.startswith("state")
        if data is not None:
            made.buffer = len(model.buffers)
            model.buffers.append(schema.BufferT())
            model.buffers[-1].data = np.frombuffer(data.astype("<f4").tobytes(), np.uint8)
        graph.tensors.append(made)
        return len(graph.tensors) - 1

    data = tensor("x", (1, steps, features))
    given = [tensor(f"w{i}", w.shape, w) for i, w in enumerate(weights)]
    states = [tensor(f"state{i}", (1, hidden)) for i in range(2)]
    output = tensor("y", (1, steps, hidden))
    operator, options = schema.OperatorT(), schema.UnidirectionalSequenceLSTMOptionsT()
    options.fusedActivationFunction = schema.ActivationFunctionType.TANH
    operator.inputs = [data, *given[:8], -1, -1, -1, *given[8:], -1, -1, *states, -1, -1, -1, -1]
    operator.outputs = [output]
    operator.builtinOptions = options
    operator.builtinOptionsType = schema.BuiltinOptions.UnidirectionalSequenceLSTMOptions
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = (
        schema.BuiltinOperator.UNIDIRECTIONAL_SEQUENCE_LSTM
    )
    graph.operators, graph.inputs, graph.outputs = [operator], [data], [output]
    model.operatorCodes, model.subgraphs = [code], [graph]
    return write(model)
