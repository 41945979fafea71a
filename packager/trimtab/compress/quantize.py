"""Post-training int8 quantization of a float graph, for three runtimes at once.

The result is the same graph with QuantizeLinear/DequantizeLinear pairs (QDQ) on activations and
int8 constants behind DequantizeLinear as weights. ONNX Runtime and OpenVINO turn what stands
between the pairs into integer kernels; the engine lowers the pairs to fake-quant operators, from
which the TFLite converter makes int8 kernels. Inputs and outputs of the graph stay float32.

- Activations: 8 bits with a zero point, one scale for a tensor: TFLite cannot hold more. They are
  written as uint8 (see `affine` for why), which TFLite stores as int8, shifted by 128.
- Weights: int8 around zero, one scale for each output channel.
- Bias: int32 in units of input scale times weight scale.

`placement` decides where pairs go, `calibrate` the ranges, `affine` does the arithmetic,
`kernel_rounding` rounds weights and `bias_correction` takes the mean error of what is left out of
the biases. docs/decisions/0014-int8-methods.md has the measurements behind the
defaults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from trimtab.compress.affine import (
    CODE_MIN,
    INT16,
    INT16_MAX,
    UINT8,
    ActivationForm,
    AffineParameters,
    Range,
    quantize_bias,
    quantize_weights,
    weight_scales,
    widen_for_bias,
)
from trimtab.compress.bias_correction import correct_biases
from trimtab.compress.calibrate import Method, calibrate
from trimtab.compress.equalize import equalize
from trimtab.compress.float_islands import shield_float_layers
from trimtab.compress.input_moments import input_moments
from trimtab.compress.kernel_rounding import rounding_of
from trimtab.compress.other_weights import other_weights, store_other_weights
from trimtab.compress.placement import Placement, has_integer_kernel, place, quantized_groups
from trimtab.compress.weights import find_weights
from trimtab.errors import DataError, ModelError
from trimtab.graph.access import (
    add_initializer,
    attribute,
    constant,
    infer_shapes,
    replace_value,
)

if TYPE_CHECKING:
    from trimtab.compress.context import Context

# DequantizeLinear has an axis, and so per-channel scales, from this version on.
MINIMUM_OPSET = 13
ROUNDING_SAMPLES = 64
"""So many samples are looked at to round weights: four times as many hardly change the error."""

Array = NDArray[Any]
_NO_MOMENTS: Mapping[str, Array] = MappingProxyType({})

_UNIT_WRITERS = frozenset({"Sigmoid", "Softmax", "Tanh"})
_UNIT = Range(-INT16_MAX / 2**15, INT16_MAX / 2**15)
"""What int16 codes of these operators cover: TFLite's kernels insist on steps of 1/32768
(tensorflow/lite/kernels/activations.cc)."""


class QuantizeInt8(msgspec.Struct, frozen=True, kw_only=True):
    """How to quantize a model to int8 after training.

    Attributes:
        calibration_samples: Samples to measure activation ranges on, at most 65,536.
        method: How a range is chosen from the values seen (see `calibrate`).
        weights_per_channel: One scale for each output channel, else one for all.
        bias_correction: Take the mean error of rounded weights out of the biases (see
            `bias_correction`).
        equalize: First give channels of inner activations like ranges (see `equalize`).
        keep_float: Layers that stay float: names of nodes or weights, or operators, with `*` and
            `?`.
    """

    calibration_samples: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 256
    method: Method = "mse"
    weights_per_channel: bool = True
    equalize: bool = False
    bias_correction: bool = True
    keep_float: tuple[str, ...] = ()


def apply(model: ir.Model, step: QuantizeInt8, context: Context) -> ir.Model:
    """Quantize a float model with ranges from the context's data.

    Args:
        model: A cleaned float32 model. It is not changed.
        step: How to quantize.
        context: Its data set gives the calibration samples.

    Returns:
        A new model with QDQ pairs and int8 weights, same inputs and outputs.

    Raises:
        DataError: There is no data, or it does not fit the model.
        ModelError: The model is quantized already, older than opset 13, or has no operator that
            runs in int8.
        RecipeError: A pattern of `keep_float` matches nothing.
    """
    return calibrated(model, step, context, technique="quantize_int8", form=UINT8)


def calibrated(
    model: ir.Model, step: QuantizeInt8, context: Context, *, technique: str, form: ActivationForm
) -> ir.Model:
    """Quantize a float model; `apply` for any form of activations.

    Args:
        model: A cleaned float32 model. It is not changed.
        step: How to quantize.
        context: Its data set gives the calibration samples.
        technique: Its name, for messages.
        form: What activations are rounded to.

    Raises:
        DataError: As `apply`.
        ModelError: As `apply`.
        RecipeError: As `apply`.
    """
    if context.dataset is None:
        raise DataError(
            f"{technique}: calibration needs sample inputs and there are none; "
            "give a data file with --data (labels are not needed)"
        )
    _check_quantizable(model, technique)
    typed = _with_types(model)
    values = [name for group in quantized_groups(typed.graph, step.keep_float) for name in group]
    others = other_weights(typed, step.keep_float)
    if not values and not others:
        operators = sorted({node.op_type for node in model.graph})
        kept = f" with `keep_float` {list(step.keep_float)}" if step.keep_float else ""
        raise ModelError(
            f"{technique}: none of the model's operators runs in int8{kept}: {operators}"
        )
    samples = context.dataset.calibration(step.calibration_samples, context.seed)
    if step.equalize:
        equalize(typed, samples)
    ranges = calibrate(typed, samples, values, method=step.method)
    result = quantize(
        typed,
        ranges,
        weights_per_channel=step.weights_per_channel,
        keep_float=step.keep_float,
        form=form,
        moments=_moments(typed, samples),
    )
    if step.bias_correction:
        correct_biases(result, typed, samples)
    return store_other_weights(result, others)


def _moments(model: ir.Model, samples: Sequence[Array]) -> Mapping[str, Array]:
    kernels = [weight for weight in find_weights(model) if has_integer_kernel(weight.node)]
    return input_moments(model, kernels, [array[:ROUNDING_SAMPLES] for array in samples])


def quantize(
    model: ir.Model,
    ranges: Mapping[str, Range],
    *,
    weights_per_channel: bool = True,
    keep_float: Sequence[str] = (),
    form: ActivationForm = UINT8,
    moments: Mapping[str, Array] = _NO_MOMENTS,
) -> ir.Model:
    """Insert QDQ pairs and int8 weights, given the range of every activation.

    Args:
        model: A float32 model with inferred types. It is not changed.
        ranges: The range of every value that `quantized_groups` names. Values of one group get
            the union of their ranges.
        weights_per_channel: One scale for each output channel, else one for all.
        keep_float: Patterns of layers that stay float.
        form: What activations are rounded to.
        moments: Second moments of layers' inputs, by the names of their weights (see
            `input_moments`), to round these weights by.

    Returns:
        A new model.

    Raises:
        ModelError: The model is quantized already, or older than opset 13.
        RecipeError: A pattern matches nothing.
    """
    _check_quantizable(model, "quantization")
    result = model.clone()
    graph = result.graph
    by_name = {value.name: value for value in graph.inputs}
    by_name |= {value.name: value for node in graph for value in node.outputs}
    placement = place(graph, keep_float)
    for group in placement.groups:
        covered = reduce(Range.union, (ranges[name] for name in group))
        if form is INT16 and _is_in_unit(covered, [by_name[name] for name in group]):
            covered = _UNIT
        parameters = form.parameters(covered)
        scale_array = np.asarray(parameters.scale, np.float32)
        zero_array = np.asarray(parameters.zero_point, form.dtype)
        scale = add_initializer(graph, f"{group[0]}_scale", scale_array)
        zero = add_initializer(graph, f"{group[0]}_zero_point", zero_array)
        for name in group:
            for value in _values_to_pair(by_name[name], parameters, placement):
                _insert_pair(value, placement, scale, zero)
    for node in placement.kernels:
        own = moments.get(str(node.inputs[1].name)) if node.inputs[1] is not None else None
        _quantize_kernel(node, own, weights_per_channel=weights_per_channel)
    shield_float_layers(graph)
    common.RemoveUnusedNodesPass()(result)
    return result


def _is_in_unit(covered: Range, values: list[ir.Value]) -> bool:
    """Tell whether values lie in -1..1 because an operator writes no others."""
    writers = [node for value in values if (node := value.producer()) is not None]
    is_bounded = any(node.op_type in _UNIT_WRITERS for node in writers)
    return is_bounded and covered.low >= -1 and covered.high <= 1


def _check_quantizable(model: ir.Model, technique: str) -> None:
    opset = model.opset_imports.get("", 0)
    if opset < MINIMUM_OPSET:
        raise ModelError(
            f"{technique}: the model has opset {opset}, int8 needs {MINIMUM_OPSET} or later; "
            "export it again with a newer opset"
        )
    for node in model.graph:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            raise ModelError(
                f"{technique}: the model is quantized already (node {node.name!r} is a "
                f"{node.op_type}); give the float model"
            )


def _with_types(model: ir.Model) -> ir.Model:
    """Copy a model and infer the element types, by which activations are told from shapes."""
    copy = model.clone()
    infer_shapes(copy)
    return copy


def _values_to_pair(
    value: ir.Value, parameters: AffineParameters, placement: Placement
) -> list[ir.Value]:
    """Give a value, and the input of the Relu that wrote it if no kernel can have that built in.

    A kernel clips at its lowest code, which does a Relu's work if that code stands for zero. It
    does not where a Concat shares the scale with a value that has negatives. There the operator
    gets a pair of its own before the Relu, or ONNX Runtime would run it in float. The same
    scale serves: what it clips off, the Relu or the pair behind that would clip off.
    """
    node = value.producer()
    if node is None or parameters.zero_point == CODE_MIN or not placement.is_fused(node):
        return [value]
    assert node.inputs[0] is not None
    return [node.inputs[0], value]


def _insert_pair(
    value: ir.Value, placement: Placement, scale: ir.Value, zero_point: ir.Value
) -> None:
    """Send what reads codes through QuantizeLinear and DequantizeLinear.

    Where an integer kernel writes the value, that is all that reads it, for the kernel has no
    float result. If such a value is an output of the graph, the dequantized one takes over its
    name. Float readers of a float value keep it as it is.
    """
    graph, name = value.graph, str(value.name)
    assert isinstance(graph, ir.Graph)
    to_codes = ir.node("QuantizeLinear", [value, scale, zero_point], name=f"{name}_quantize")
    codes = to_codes.outputs[0]
    assert zero_point.dtype is not None
    codes.name, codes.shape = f"{name}_{zero_point.dtype.name.lower()}", value.shape
    codes.dtype = zero_point.dtype
    to_real = ir.node("DequantizeLinear", [codes, scale, zero_point], name=f"{name}_dequantize")
    real = to_real.outputs[0]
    real.name, real.shape, real.dtype = f"{name}_dequantized", value.shape, ir.DataType.FLOAT
    producer = value.producer()
    if producer is not None and placement.takes_codes(producer):
        replace_value(value, real)
        to_codes.replace_input_with(0, value)  # the line above turned this use too
    else:
        for use in [use for use in value.uses() if placement.takes_codes(use.node)]:
            use.node.replace_input_with(use.idx, real)
    if producer is None:
        graph.insert_before(graph[0], [to_codes, to_real])
    else:
        graph.insert_after(producer, [to_codes, to_real])


def _quantize_kernel(node: ir.Node, moments: Array | None, *, weights_per_channel: bool) -> None:
    """Replace the weights of a node by int8 constants and its bias by an int32 one."""
    weights = constant(node.inputs[1])
    assert weights is not None, "placement has seen the weights"
    axis = _channel_axis(node) if weights_per_channel else None
    scales = weight_scales(weights, axis)
    bias = _vector_bias(node)
    input_scale = _input_scale(node)
    if bias is not None:
        scales = widen_for_bias(scales, bias, input_scale)
        bias_scales = (scales * np.float32(input_scale)).astype(np.float32)
        bias_axis = None if axis is None else 0
        _replace_by_constant(node, 2, quantize_bias(bias, bias_scales), bias_scales, axis=bias_axis)
    codes = quantize_weights(weights, scales, axis, rounding_of(node, moments))
    _replace_by_constant(node, 1, codes, scales, axis=axis)


def _channel_axis(node: ir.Node) -> int | None:
    """Give the axis of the weights that counts output channels, or None for one scale in all.

    A grouped ConvTranspose repeats its output channels from group to group along that axis, and a
    batch of matrices has no axis of its own for them.
    """
    match node.op_type:
        case "Conv":
            return 0
        case "ConvTranspose" if attribute(node, "group", 1) == 1:
            return 1
        case "Gemm":
            return 0 if attribute(node, "transB", 0) else 1
        case "MatMul" if node.inputs[1] is not None and len(node.inputs[1].shape or ()) == 2:
            return 1
        case _:
            return None


def _vector_bias(node: ir.Node) -> NDArray[np.float32] | None:
    """Give the bias that an int8 kernel can add to its sums: one constant for each channel."""
    if len(node.inputs) < 3 or node.op_type == "MatMul":
        return None
    if attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0:
        return None  # Gemm scales its product and its bias: they have no common unit
    bias = constant(node.inputs[2])
    return bias if bias is not None and bias.ndim == 1 else None


def _input_scale(node: ir.Node) -> float:
    """Read the scale of a node's input off the pair before it."""
    source = node.inputs[0]
    pair = None if source is None else source.producer()
    scale = None if pair is None else constant(pair.inputs[1])
    assert scale is not None, "every input of an integer kernel is quantized first"
    return float(scale)


def _replace_by_constant(
    node: ir.Node,
    index: int,
    codes: NDArray[np.signedinteger],
    scales: NDArray[np.float32],
    *,
    axis: int | None,
) -> None:
    """Feed an input of a node from integer codes through DequantizeLinear."""
    graph, old = node.graph, node.inputs[index]
    assert isinstance(graph, ir.Graph)
    assert old is not None
    operands = [
        add_initializer(graph, f"{old.name}_{codes.dtype}", codes),
        add_initializer(graph, f"{old.name}_scale", scales),
        add_initializer(graph, f"{old.name}_zero_point", np.zeros(scales.shape, codes.dtype)),
    ]
    operands[0].metadata_props.update(old.metadata_props)
    attributes = {} if axis is None else {"axis": axis}
    name = f"{operands[0].name}_dequantize"  # is free: layers may share a weight
    to_real = ir.node("DequantizeLinear", operands, attributes, name=name)
    real = to_real.outputs[0]
    real.shape, real.dtype = old.shape, ir.DataType.FLOAT
    graph.insert_before(node, to_real)
    node.replace_input_with(index, real)
