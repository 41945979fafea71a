"""Weights of `.tflite` files that are stored packed: sparse, or several to the byte.

Sources: TFLite's schema (tensorflow/compiler/mlir/lite/schema/schema.fbs, SparsityParameters), and
the traversal of its FormatConverter (lite/kernels/internal/utils/sparsity_format_converter.cc).
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

_WIDTHS = {
    "FLOAT32": 4,
    "FLOAT16": 2,
    "BFLOAT16": 2,
    "FLOAT64": 8,
    "INT8": 1,
    "UINT8": 1,
    "INT16": 2,
    "UINT16": 2,
    "INT32": 4,
    "UINT32": 4,
    "INT64": 8,
    "UINT64": 8,
    "BOOL": 1,
}
"""Bytes of one element."""

_PACKED_BITS = {"INT4": 4, "INT2": 2}
"""Bits of one element, where several share a byte; the first has the low bits."""


def expand_weights(model: Any) -> None:
    """Writes out every sparse weight, and gives every int4 and int2 a byte of its own, in place.

    Args:
        model: A `ModelT` of TFLite's schema, as the flatbuffer compiler generates it.

    Raises:
        ValueError: A sparse tensor has an element type that is not known, or does not fit its
            shape.
    """
    from ai_edge_litert import schema_py_generated as schema

    names = {
        code: name for name, code in vars(schema.TensorType).items() if not name.startswith("_")
    }
    done: set[int] = set()
    for tensor in (tensor for graph in model.subgraphs for tensor in graph.tensors or []):
        buffer, name = model.buffers[tensor.buffer], names[tensor.type]
        stored = buffer.data is not None and len(buffer.data) > 0
        if stored and tensor.buffer not in done:
            if name in _PACKED_BITS:
                values = unpack(np.asarray(buffer.data, np.uint8), _PACKED_BITS[name])
                if tensor.sparsity is None:
                    values = values[: prod(tensor.shape)]
                buffer.data = values.view(np.uint8)
                name = "INT8"
            if tensor.sparsity is not None:
                buffer.data = _dense_bytes(tensor, buffer.data, name)
            done.add(tensor.buffer)
        if names[tensor.type] in _PACKED_BITS:
            tensor.type = schema.TensorType.INT8
        if stored:
            tensor.sparsity = None


def unpack(packed: NDArray[np.uint8], bits: int) -> NDArray[np.int8]:
    """Returns signed integers of `bits` bits, one a byte, first those in the low bits."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    fields = (packed[:, None] >> shifts) & np.uint8(2**bits - 1)
    sign = 2 ** (bits - 1)
    values: NDArray[np.int8] = (fields ^ sign).astype(np.int8) - np.int8(sign)
    return values.reshape(-1)


def _dense_bytes(tensor: Any, data: Any, name: str) -> NDArray[np.uint8]:
    if name not in _WIDTHS:
        raise ValueError(f"sparse tensor {tensor.name!r} has elements of the type {name}")
    width = _WIDTHS[name]
    values = np.asarray(data, np.uint8).reshape(-1, width)
    positions = dense_positions(tensor.sparsity, list(tensor.shape))
    result = np.zeros((prod(tensor.shape), width), np.uint8)
    result[positions] = values[: len(positions)]
    return result.reshape(-1)


def dense_positions(sparsity: Any, shape: list[int]) -> NDArray[np.int64]:
    """Returns where each stored value lies in the dense tensor, in the order they are stored.

    Args:
        sparsity: A `SparsityParametersT`. Its levels are the dimensions in traversal order, those
            within a block after those of the tensor. A dense level has every index; of a
            compressed one (CSR), entry p of the level before has the indices
            `indices[segments[p]:segments[p + 1]]`.
        shape: Of the dense tensor.
    """
    parents = np.zeros(1, np.int64)
    columns: dict[int, NDArray[np.int64]] = {}
    sizes: dict[int, int] = {}
    for dimension, level in zip(sparsity.traversalOrder, sparsity.dimMetadata, strict=True):
        sizes[dimension] = level.denseSize
        if level.format == 0:
            counts = np.full(len(parents), level.denseSize, np.int64)
            within = np.tile(np.arange(level.denseSize), len(parents))
            parents = np.repeat(parents, counts) * level.denseSize + within
            column = within
        else:
            segments = np.asarray(level.arraySegments.values, np.int64)
            starts, counts = segments[parents], segments[parents + 1] - segments[parents]
            offsets = np.cumsum(counts) - counts
            parents = np.repeat(starts - offsets, counts) + np.arange(counts.sum())
            column = np.asarray(level.arrayIndices.values, np.int64)[parents]
        columns = {key: np.repeat(values, counts) for key, values in columns.items()}
        columns[dimension] = column
    return _flat_index(
        columns, sizes, [] if sparsity.blockMap is None else sparsity.blockMap, shape
    )


def _flat_index(
    columns: dict[int, NDArray[np.int64]], sizes: dict[int, int], blocks: Any, shape: list[int]
) -> NDArray[np.int64]:
    """Returns row-major positions from an index for each dimension and each block dimension."""
    index = [columns[axis] for axis in range(len(shape))]
    for number, axis in enumerate(blocks):
        block = len(shape) + number
        index[axis] = index[axis] * sizes[block] + columns[block]
    return np.asarray(np.ravel_multi_index(tuple(index), tuple(shape)), np.int64)
