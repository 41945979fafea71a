"""A graph to OpenVINO's intermediate representation: an `.xml`, and its weights in a `.bin`."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import onnx_ir as ir
from onnx_ir.passes import common

from trimtab.errors import ExportError, UnsupportedOperatorError
from trimtab.graph.access import attribute, constant
from trimtab.graph.count import count_model
from trimtab.graph.precision import may_round_activations
from trimtab.graph.save import save_beside
from trimtab.targets.narrow_codes import widen_narrow_codes
from trimtab.targets.openvino_activations import drop_activation_pairs
from trimtab.targets.openvino_recurrent import keep_recurrent_float
from trimtab.targets.openvino_storage import shrink_constants
from trimtab.targets.product_pairs import drop_product_pairs
from trimtab.targets.wide_activations import drop_wide_pairs
from trimtab.targets.writing import WriteRequest, Written

Foreign = Any
"""An object of OpenVINO, which ships no complete type information."""

_PRODUCTS = ("MatMul", "Gemm")
_LARGEST_GROUP = 128
"""Activations that share a scale. For 64 rows of 1024 inputs, weights scaled by rows, groups of 32,
128 and 1024 took 8.0, 4.1 and 6.0 ms, float 15.0 ms."""


def write(model: ir.Model, folder: Path, request: WriteRequest) -> Written:
    """Writes an `.xml` and its `.bin`; see `Writer`."""
    import openvino as ov

    lowered = model.clone()
    drop_wide_pairs(lowered)
    widen_narrow_codes(lowered)
    weight_bytes = count_model(lowered).weight_bytes
    drop_product_pairs(lowered)
    drop_activation_pairs(lowered)
    _drop_zero_zero_points(lowered)
    common.RemoveUnusedNodesPass()(lowered)
    path = folder / f"{request.stem}.xml"
    converted = _for_single_samples(_convert(lowered), model)
    shrink_constants(converted)
    keep_recurrent_float(converted)
    # Left alone, OpenVINO rounds the activations of every product with integer weights to 8 bits.
    group = str(_activation_group(lowered))
    converted.set_rt_info(group, ["runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE"])
    # It would round weights to half precision; that is a choice for a recipe, not for here.
    ov.save_model(converted, path, compress_to_fp16=False)
    return Written(path=path, weight_bytes=weight_bytes)


def _convert(model: ir.Model) -> Foreign:
    """Reads the graph in and simplifies it, by the two calls that `openvino.convert_model` makes.

    That function also sends usage statistics from a process that it forks, which can lock up a
    matrix product of numpy that runs meanwhile, sets the level of the root logger, and takes a
    comma in a path for the end of it.
    """
    import openvino as ov
    from openvino._offline_transformations import apply_moc_transformations

    with tempfile.TemporaryDirectory(prefix="trimtab-") as folder:
        source, *_ = save_beside(model, Path(folder) / "model.onnx")
        try:
            converted = ov.Core().read_model(source)
        except RuntimeError as error:
            raise _refusal(str(error)) from error
    apply_moc_transformations(converted, cf=False, smart_reshape=True)
    return converted


def _refusal(message: str) -> ExportError | UnsupportedOperatorError:
    """Returns what to raise; OpenVINO names all operators that it lacks in one line."""
    found = re.search(r"No conversion rule found for operations: (.*)", message)
    if found is None:
        return ExportError(f"OpenVINO refuses the graph: {message}")
    # Such as `Det-17`: the operator and the opset that it is from.
    names = sorted({name.rpartition("-")[0] or name for name in found[1].split(", ")})
    return UnsupportedOperatorError(
        f"OpenVINO has no {', '.join(names)}; write the model without them, or leave the target "
        "out (--target)",
        names,
    )


def _drop_zero_zero_points(model: ir.Model) -> None:
    """Lets zero points of matrix products' weights out that are all zero, in place.

    With them, OpenVINO 2026.4 rounds no activations of products with 4-bit weights.
    """
    for node in model.graph:
        zero = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        if zero is not None and not zero.any() and _feeds_product(node):
            node.resize_inputs(2)


def _for_single_samples(converted: Foreign, model: ir.Model) -> Foreign:
    """Fixes the batch, where it is free, to the one sample that a device runs at a time.

    It saves 5 % of EfficientNet-Lite0's time and a quarter of a small perceptron's. Other free
    dimensions stay free. A graph that cannot be fixed stays as it is.
    """
    fixed = converted.clone()
    shapes = {}
    for number, value in enumerate(model.graph.inputs):
        dims = list(fixed.input(number).partial_shape)
        if value.shape and not isinstance(value.shape[0], int):
            shapes[number] = [1, *dims[1:]]
    try:
        fixed.reshape(shapes)
    except RuntimeError:
        return converted
    return fixed


def _activation_group(model: ir.Model) -> int:
    """Returns how many activations share a scale when they are rounded; 0 to round none.

    OpenVINO has one setting for all layers: it is used where all of them permit it. The group must
    not be larger than those of the weights.
    """
    stored = [node for node in model.graph if _feeds_product(node)]
    if not stored or not all(map(may_round_activations, stored)):
        return 0
    blocks = [int(attribute(node, "block_size", 0)) for node in stored]
    return min([_LARGEST_GROUP, *filter(None, blocks)])


def _feeds_product(node: ir.Node) -> bool:
    """Says whether a node makes the float weights of a matrix product out of stored integers."""
    if node.op_type != "DequantizeLinear" or constant(node.inputs[0]) is None:
        return False
    return any(use.idx == 1 and use.node.op_type in _PRODUCTS for use in node.outputs[0].uses())
