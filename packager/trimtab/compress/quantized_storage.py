"""Writes what was trained in the form of `fake_quantized` as integers: the way back.

A float weight behind a pair becomes integer codes behind DequantizeLinear, the bias of a layer
whose input is rounded too an int32 in units of input scale times weight scale.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from trimtab.compress.affine import along_axis, quantize_bias, widen_for_bias
from trimtab.compress.fake_quantized import Place, is_recurrent, weight_places
from trimtab.compress.float_islands import shield_float_layers
from trimtab.compress.quantize_weights import BITS_KEY
from trimtab.engine.learned_scales import LEARNED_KEY, highest_code, is_learned
from trimtab.graph.access import add_initializer, attribute, constant, set_initializer

Array = NDArray[Any]


def stored_form(trained: ir.Model) -> ir.Model:
    """Returns a copy of a graph in its form for training with integers for weights and biases.

    It computes what the engine computes of `trained`, up to the rounding of biases to int32.
    """
    result = trained.clone()
    places = [place for place in weight_places(result.graph) if _is_trained(place)]
    for place in places:
        _widen(place)
    for place in places:
        _store_bias(place)
    for pair in {place.value.producer(): None for place in places}:
        assert pair is not None, "trained weights come from a pair"
        _store_weight(pair, result.graph)
    for value in result.graph.initializers.values():
        value.metadata_props.pop(LEARNED_KEY, None)
    shield_float_layers(result.graph)
    common.RemoveUnusedNodesPass()(result)
    return result


def _is_trained(place: Place) -> bool:
    """Says whether a layer reads a trained weight there, and not an activation: a MatMul may."""
    pair = place.value.producer()
    if pair is None or pair.op_type != "DequantizeLinear" or not is_learned(pair.inputs[1]):
        return False
    to_codes = pair.inputs[0].producer() if pair.inputs[0] is not None else None
    return to_codes is not None and constant(to_codes.inputs[0]) is not None


def _widen(place: Place) -> None:
    """Raises the scales of weights that are too small for the bias to be stored in units of them.

    That happens to channels whose weights are almost zero; other weights stay as they are.
    """
    bias, input_scale = _bias(place), _input_scale(place.node)
    if bias is None or input_scale is None:
        return
    scale, scales = _scales(place)
    set_initializer(scale, widen_for_bias(scales, bias, input_scale))


def _store_bias(place: Place) -> None:
    """Puts int32 codes where the bias was."""
    bias, input_scale, old = _bias(place), _input_scale(place.node), None
    if bias is None or input_scale is None:
        return
    old, graph = place.node.inputs[2], place.node.graph
    assert old is not None
    assert isinstance(graph, ir.Graph)
    units = np.asarray(_scales(place)[1] * np.float32(input_scale), np.float32)
    operands = [
        add_initializer(graph, f"{old.name}_int32", quantize_bias(bias, units)),
        add_initializer(graph, f"{old.name}_scale", units),
        add_initializer(graph, f"{old.name}_zero_point", np.zeros(units.shape, np.int32)),
    ]
    attributes = {"axis": 0} if units.ndim else {}
    name = f"{operands[0].name}_dequantize"  # is free: layers may share a bias
    to_real = ir.node("DequantizeLinear", operands, attributes, name=name)
    real = to_real.outputs[0]
    real.shape, real.type = old.shape, ir.TensorType(ir.DataType.FLOAT)
    graph.insert_before(place.node, to_real)
    place.node.replace_input_with(2, real)


def _store_weight(to_real: ir.Node, graph: ir.Graph) -> None:
    """Lets a DequantizeLinear read codes where it has read what a QuantizeLinear rounded."""
    to_codes = to_real.inputs[0].producer() if to_real.inputs[0] is not None else None
    assert to_codes is not None
    weight, zero = to_codes.inputs[0], constant(to_codes.inputs[2])
    scales, weights = constant(to_codes.inputs[1]), constant(weight)
    assert weight is not None
    assert zero is not None
    assert scales is not None
    assert weights is not None
    axis = attribute(to_codes, "axis", None)
    highest = highest_code(zero.dtype)
    steps = np.rint(weights / along_axis(scales, weights.ndim, axis))
    array = np.clip(steps, -highest, highest).astype(zero.dtype)
    codes = add_initializer(graph, f"{weight.name}_{zero.dtype}", array)
    codes.metadata_props.update(weight.metadata_props)
    if zero.dtype != np.int8:
        codes.metadata_props[BITS_KEY] = "4"
    to_real.replace_input_with(0, codes)
    if any(is_recurrent(use.node) for use in to_real.outputs[0].uses()):
        _store_scales_in_blocks(to_real, graph)


def _store_scales_in_blocks(to_real: ir.Node, graph: ir.Graph) -> None:
    """Repeats the scales of a recurrent layer's gates for each direction, one a row.

    With a scale for each index of an axis, OpenVINO 2026.4 refuses int8 weights of an LSTM in a
    graph with pairs ("LSTMSequence expects Constant for port 4").
    """
    codes, scales, zero = (constant(value) for value in to_real.inputs)
    assert codes is not None
    assert scales is not None
    assert zero is not None
    rows = np.broadcast_to(scales.reshape(1, -1, 1), (*codes.shape[:2], 1))
    names = [str(value.name) for value in to_real.inputs[1:] if value is not None]
    to_real.replace_input_with(1, add_initializer(graph, names[0], rows))
    to_real.replace_input_with(
        2, add_initializer(graph, names[1], np.zeros(rows.shape, zero.dtype))
    )
    to_real.attributes["axis"] = ir.AttrInt64("axis", 2)
    to_real.attributes["block_size"] = ir.AttrInt64("block_size", codes.shape[2])


def _bias(place: Place) -> Array | None:
    """Returns the bias that an integer kernel adds to its sums: one constant for each channel."""
    node = place.node
    if is_recurrent(node) or node.op_type == "MatMul" or len(node.inputs) < 3:
        return None
    if attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0:
        return None
    bias = constant(node.inputs[2])
    return bias if bias is not None and bias.ndim == 1 and bias.dtype == np.float32 else None


def _input_scale(node: ir.Node) -> float | None:
    """Reads the scale of a node's input off the pair before it, if there is one."""
    source = node.inputs[0]
    pair = None if source is None else source.producer()
    if pair is None or pair.op_type != "DequantizeLinear":
        return None
    scale = constant(pair.inputs[1])
    return float(scale.item()) if scale is not None and scale.size == 1 else None


def _scales(place: Place) -> tuple[ir.Value, Array]:
    pair = place.value.producer()
    scale = None if pair is None else pair.inputs[1]
    array = constant(scale)
    assert scale is not None
    assert array is not None
    return scale, array
