"""The form in which a quantized graph is trained: float weights that are rounded as they are used.

A stored weight, integers behind DequantizeLinear, becomes a float initializer behind a pair of
QuantizeLinear and DequantizeLinear of the same scale; an int32 bias becomes a float one. Scales of
weights and of activations are marked as learned. `quantized_storage` is the way back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from trimtab.compress.affine import WEIGHT_MAX, along_axis, weight_scales
from trimtab.compress.placement import KERNEL_OPERATORS
from trimtab.compress.quantize_weights import BITS_KEY
from trimtab.compress.weight_grid import fit
from trimtab.engine.learned_scales import highest_code, learn
from trimtab.graph.access import (
    add_initializer,
    attribute,
    constant,
    held,
    rank_of,
    replace_value,
)
from trimtab.graph.dequantize import weight_floats

Array = NDArray[Any]
Bits = Literal[8, 4]

_CELL = 0.49
"""How far from a code, in steps, a weight may be to be rounded to it: less than a half, by more
than float32 loses."""

_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})


@dataclass(frozen=True)
class Place:
    """Where a layer reads a weight.

    Attributes:
        node: The layer.
        index: Which of its inputs.
    """

    node: ir.Node
    index: int

    @property
    def value(self) -> ir.Value:
        """What it reads there."""
        value = self.node.inputs[self.index]
        assert value is not None, "layers have their weights"
        return value


@dataclass(frozen=True)
class Grid:
    """What a weight's codes stand for.

    Attributes:
        scales: One, or one for each index of the axis.
        axis: None for one scale.
    """

    scales: NDArray[np.float32]
    axis: int | None


def weight_places(graph: ir.Graph) -> list[Place]:
    """Lists where layers read weights, whatever these are made of, in the graph's order."""
    return [
        Place(node, index)
        for node in graph
        if not node.domain
        for index in _indices(node)
        if index < len(node.inputs) and node.inputs[index] is not None
    ]


def is_recurrent(node: ir.Node) -> bool:
    """Says whether a node is an LSTM, GRU or RNN: its weights become integers, it stays float."""
    return not node.domain and node.op_type in _RECURRENT


def train_form(
    quantized: ir.Model, bits: Bits | None, originals: Sequence[ir.Value | None] | None = None
) -> ir.Model:
    """Returns a copy of a quantized graph whose weights and scales can be trained.

    Args:
        quantized: A graph with QuantizeLinear/DequantizeLinear pairs or stored integers.
        bits: Of the weights. Scales of weights in another number of bits are chosen anew. None
            for as many as each has; then those in 2 bits or 1, which are too coarse for this,
            stay as they are.
        originals: For each of `weight_places`, in order, the initializer that holds the weight as
            it was before it was rounded, or None where the graph's own is taken. One of a layer
            that the graph leaves float is quantized too.
    """
    result = quantized.clone()
    places = weight_places(result.graph)
    known = [None] * len(places) if originals is None else originals
    pairs: dict[tuple[str, int | None], ir.Value] = {}
    for place, original in zip(places, known, strict=True):
        _thaw_weight(place, original, bits, pairs)
    for node in list(result.graph):
        if _stores(node, np.int32):
            _thaw_bias(node, result.graph)
    for node in result.graph:
        if node.op_type == "QuantizeLinear" and constant(node.inputs[0]) is None:
            _learn_activation(node)
    common.RemoveUnusedNodesPass()(result)
    return result


def _indices(node: ir.Node) -> tuple[int, ...]:
    if node.op_type in KERNEL_OPERATORS:
        return (1,)
    return (1, 2) if node.op_type in _RECURRENT else ()


def _thaw_weight(
    place: Place,
    original: ir.Value | None,
    wished: Bits | None,
    pairs: dict[tuple[str, int | None], ir.Value],
) -> None:
    """Feeds a layer from floats that are rounded; layers that share a weight share the pair."""
    to_real = _stored_before(place.value)
    source = original if original is not None else _rounded(to_real)
    array = constant(original) if original is not None else weight_floats(place.value)
    bits = wished or _present_bits(to_real)
    if source is None or array is None or bits is None:
        return
    grid = _grid(place.node, array, bits, to_real, one_for_all=_shares_values(source))
    if to_real is not None and original is not None and not _shares_values(source):
        array = _as_rounded(array, to_real, grid)
    key = (str(source.name), grid.axis)
    if key not in pairs:
        pairs[key] = _pair(place, source, array, grid, bits)
        if to_real is not None and (writer := pairs[key].producer()) is not None:
            writer.metadata_props.update(to_real.metadata_props)
    place.node.replace_input_with(place.index, pairs[key])


def _stored_before(value: ir.Value) -> ir.Node | None:
    """Returns the DequantizeLinear of a constant, or of a rounded one, that gives a weight."""
    node = value.producer()
    if node is not None and node.op_type == "Reshape" and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node if node is not None and node.op_type == "DequantizeLinear" else None


def _rounded(to_real: ir.Node | None) -> ir.Value | None:
    """Returns the initializer that a DequantizeLinear gives back: integers, or rounded floats."""
    codes = None if to_real is None else to_real.inputs[0]
    to_codes = None if codes is None else codes.producer()
    return codes if to_codes is None else to_codes.inputs[0]


def _present_bits(to_real: ir.Node | None) -> Bits | None:
    """Returns how many bits a stored weight has; None for fewer than 4."""
    source = _rounded(to_real)
    if to_real is None or source is None:
        return 8
    marked = source.metadata_props.get(BITS_KEY)
    if marked is not None and int(marked) < 4:
        return None
    codes = to_real.inputs[0]
    narrow = codes is not None and codes.dtype in (ir.DataType.INT4, ir.DataType.UINT4)
    return 4 if narrow else 8


def _shares_values(weight: ir.Value) -> bool:
    return held(weight) in ("clusters", "model_clusters")


def _grid(
    node: ir.Node, array: Array, bits: Bits, to_real: ir.Node | None, *, one_for_all: bool
) -> Grid:
    """Chooses the grid to begin with: the present one, if it has as many codes.

    Weights that share values have one scale, or the same value would be another one in every
    channel.
    """
    if one_for_all:
        return Grid(weight_scales(array, None), None) if bits == 8 else _fitted(array, None)
    if to_real is not None and (present := _present_grid(to_real, array, bits)) is not None:
        return present
    axis = _row_axis(node, bits)
    return Grid(weight_scales(array, axis), axis) if bits == 8 else _fitted(array, axis)


def _present_grid(to_real: ir.Node, array: Array, bits: Bits) -> Grid | None:
    """Reads the grid off a DequantizeLinear, unless it is one of another kind."""
    scale = constant(to_real.inputs[1])
    zero = constant(to_real.inputs[2]) if len(to_real.inputs) > 2 else None
    if scale is None or zero is None or scale.dtype != np.float32 or scale.ndim > 1:
        return None
    axis = attribute(to_real, "axis", 1) % array.ndim if scale.size > 1 else None
    fits = axis is None or array.shape[axis] == scale.size
    if zero.dtype != _integer(bits) or zero.astype(np.int16).any() or not fits:
        return None
    return Grid(scale if axis is not None else scale.reshape(()), axis)


def _as_rounded(array: Array, to_real: ir.Node, grid: Grid) -> Array:
    """Moves weights that were not rounded to the nearest code as far as makes theirs the nearest.

    So training begins with what the graph computes. Zeros stay.
    """
    codes, scale = constant(to_real.inputs[0]), constant(to_real.inputs[1])
    if codes is None or scale is None or not np.array_equal(scale, grid.scales):
        return array
    scales = along_axis(grid.scales, array.ndim, grid.axis)
    near = np.clip(array / scales, codes - _CELL, codes + _CELL) * scales
    return np.where(array == 0, array, near).astype(np.float32)


def _row_axis(node: ir.Node, bits: Bits) -> int | None:
    """Returns the axis with a scale for each index; see `compress.quantize`.

    In 4 bits a batch of matrices has a scale for each output column too: no runtime has integer
    kernels for it.
    """
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if attribute(node, "group", 1) == 1 else None
    if node.op_type in _RECURRENT:
        return 1
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    rank = rank_of(node.inputs[1]) or 0
    return rank - 1 if rank == 2 or (rank > 2 and bits == 4) else None


def _fitted(array: Array, axis: int | None) -> Grid:
    """Searches scales of little squared error, which in 4 bits are smaller than the largest."""
    rows = array.reshape(1, -1) if axis is None else np.moveaxis(array, axis, 0)
    rows = rows.reshape(len(rows), -1)
    whole = weight_scales(array, axis) * np.float32(WEIGHT_MAX / highest_code(_integer(4)))
    scales = np.where(rows.any(axis=1), fit(rows, 4, symmetric=True).scales, whole)
    return Grid(scales.reshape(whole.shape), axis)


def _integer(bits: Bits) -> Any:
    return np.dtype(np.int8 if bits == 8 else ml_dtypes.int4)


def _pair(place: Place, source: ir.Value, array: Array, grid: Grid, bits: Bits) -> ir.Value:
    """Adds a float weight and the pair that rounds it, in front of the layer."""
    graph = place.node.graph
    assert isinstance(graph, ir.Graph)
    weight = _float_weight(graph, source, array)
    scale = add_initializer(graph, f"{weight.name}_scale", grid.scales)
    zero = np.zeros(grid.scales.shape, _integer(bits))
    zeros = add_initializer(graph, f"{weight.name}_zero_point", zero)
    learn(scale)
    attributes = {} if grid.axis is None else {"axis": grid.axis}
    to_codes = ir.node(
        "QuantizeLinear", [weight, scale, zeros], attributes, name=f"{weight.name}_quantize"
    )
    codes = to_codes.outputs[0]
    codes.shape, codes.type = weight.shape, ir.TensorType(zeros.const_value.dtype)  # type: ignore[union-attr]
    to_real = ir.node(
        "DequantizeLinear", [codes, scale, zeros], attributes, name=f"{weight.name}_dequantize"
    )
    real = to_real.outputs[0]
    real.shape, real.type = weight.shape, ir.TensorType(ir.DataType.FLOAT)
    graph.insert_before(place.node, [to_codes, to_real])
    return real


def _float_weight(graph: ir.Graph, source: ir.Value, array: Array) -> ir.Value:
    """Returns the initializer to train: the graph's own, where it has it as floats."""
    name = _float_name(source)
    present = graph.initializers.get(name)
    content = constant(present)
    if present is not None and content is not None and np.array_equal(content, array):
        return present
    weight = add_initializer(graph, name, array)
    weight.metadata_props.update(source.metadata_props)
    weight.metadata_props.pop(BITS_KEY, None)
    return weight


def _float_name(source: ir.Value) -> str:
    name = str(source.name)
    for ending in ("_int8", "_int4", "_uint8", "_uint4"):
        name = name.removesuffix(ending)
    return name


def _stores(node: ir.Node, kind: Any) -> bool:
    if node.op_type != "DequantizeLinear":
        return False
    codes = constant(node.inputs[0])
    return codes is not None and codes.dtype == kind


def _thaw_bias(to_real: ir.Node, graph: ir.Graph) -> None:
    """Turns a stored bias into floats."""
    array, codes = weight_floats(to_real.outputs[0]), to_real.inputs[0]
    assert array is not None
    assert codes is not None
    name = str(codes.name).removesuffix("_int32")
    replace_value(to_real.outputs[0], add_initializer(graph, name, array))


def _learn_activation(to_codes: ir.Node) -> None:
    """Marks the scale of a pair around an activation; one for all of it, as TFLite has it."""
    scale = to_codes.inputs[1]
    array = constant(scale)
    readers = [use.node for use in to_codes.outputs[0].uses()]
    if scale is None or array is None or array.size != 1 or array.dtype != np.float32:
        return
    if all(_reads_on(reader, array) for reader in readers):
        learn(scale)
        for reader in readers:
            reader.replace_input_with(1, scale)


def _reads_on(reader: ir.Node, scale: Array) -> bool:
    """Says whether a node is a DequantizeLinear on a scale."""
    own = constant(reader.inputs[1]) if reader.op_type == "DequantizeLinear" else None
    return own is not None and own.size == 1 and own.item() == scale.item()
