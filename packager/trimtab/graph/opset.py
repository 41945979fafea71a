"""Brings a graph up to a newer version of ONNX's operator set."""

from __future__ import annotations

import onnx_ir as ir

from trimtab.errors import ModelError
from trimtab.graph.access import infer_shapes

_SMALL_BYTES = 1024
"""Larger constants stay out of the conversion: it copies what it is given several times, and
takes no more than 2 GB. Operators whose form changes read shapes and axes, which are small."""

_IR_VERSION = 10
"""The first file version with opset 21 and 4-bit integers (onnx/docs/Versioning.md)."""


def raise_opset(model: ir.Model, version: int) -> ir.Model:
    """Returns a copy of `model` in opset `version`, or in its own if that is newer.

    Args:
        model: The graph; it is not changed.
        version: 21 at most is tested.

    Raises:
        ModelError: ONNX cannot convert an operator.
    """
    import onnx.version_converter

    result = model.clone()
    if model.opset_imports.get("", 0) >= version:
        return result
    large = [value for value in result.graph.initializers.values() if _is_large(value)]
    kept = {str(value.name): value for value in model.graph.initializers.values()}
    for value in large:
        del result.graph.initializers[str(value.name)]
        value.const_value = None
        result.graph.inputs.append(value)
    try:
        proto = onnx.version_converter.convert_version(ir.to_proto(result), version)
    except Exception as error:  # the C++ library raises RuntimeError and others of its own
        raise ModelError(
            f"the model cannot be brought from opset {model.opset_imports.get('', 0)} to "
            f"{version}: {str(error).strip().splitlines()[0]}; export it again with a newer opset"
        ) from error
    converted: ir.Model = ir.from_proto(proto)
    _restore(converted, {str(value.name) for value in large}, kept)
    converted.ir_version = max(model.ir_version, _IR_VERSION)
    infer_shapes(converted)
    return converted


def _is_large(value: ir.Value) -> bool:
    return value.const_value is not None and value.const_value.nbytes > _SMALL_BYTES


def _restore(model: ir.Model, large: set[str], kept: dict[str, ir.Value]) -> None:
    """Gives constants that were left out their content back, and all of them what they carried."""
    for value in [value for value in model.graph.inputs if value.name in large]:
        model.graph.inputs.remove(value)
        value.const_value = kept[str(value.name)].const_value
        model.graph.register_initializer(value)
    for name, value in model.graph.initializers.items():
        if name in kept:
            value.metadata_props.update(kept[name].metadata_props)
