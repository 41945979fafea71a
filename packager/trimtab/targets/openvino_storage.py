"""Constants of an OpenVINO model in as few bytes as hold the same numbers."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from trimtab.graph.access import Array

Foreign = Any
"""An object of OpenVINO, which ships no complete type information."""

_SMALLEST = 256
"""Constants of fewer elements are not worth a Convert."""
_LARGEST_GROUP = 64
"""Scales of larger groups take less than a sixteenth of their codes' bytes."""
_NORMAL = 2.0**-14, 65504.0
"""Between these, float16 has 11 significant bits."""


def shrink_constants(model: Foreign) -> None:
    """Stores float constants in two bytes, in place.

    That is every constant whose numbers float16 or bfloat16 hold exactly, as those that a recipe
    has cast; OpenVINO reads ONNX's Cast of a constant as float32. And scales of small groups of
    integer weights, rounded to float16 like `nncf.compress_weights` does. OpenVINO makes float32 of
    them when it loads the file.
    """
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Constant" and node.get_element_type().to_string() == "f32":
            _shrink(node)


def _shrink(node: Foreign) -> None:
    readers = list(node.output(0).get_target_inputs())
    kinds = {reader.get_node().get_type_name() for reader in readers}
    array = node.data
    if array.size < _SMALLEST or "FakeQuantize" in kinds:
        return
    if _are_group_scales(array, readers):
        narrow = array.astype(np.float16)
    else:
        found = _exact(array)
        if found is None:
            return
        narrow = found
    real = _behind_convert(narrow)
    real.set_friendly_name(f"{node.get_friendly_name()}/float32")
    for reader in readers:
        reader.replace_source_output(real.output(0))


def _exact(array: Array) -> Array | None:
    """Returns the same numbers in two bytes each, or None."""
    for kind in (np.float16, ml_dtypes.bfloat16):
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and differs
            narrow = array.astype(kind)
        if np.array_equal(narrow.astype(np.float32), array):
            return np.asarray(narrow)
    return None


def _are_group_scales(array: Array, readers: list[Foreign]) -> bool:
    """Says whether an array holds scales of small groups of integer weights, none very small."""
    if len(readers) != 1 or readers[0].get_node().get_type_name() != "Multiply":
        return False
    product = readers[0].get_node()
    codes = product.input_value(1 - readers[0].get_index()).get_node()
    while codes.get_type_name() in ("Convert", "Subtract"):
        codes = codes.input_value(0).get_node()
    if codes.get_type_name() != "Constant" or not codes.get_element_type().is_integral():
        return False
    low, high = _NORMAL
    sizes = np.abs(array)
    count = int(np.prod(codes.get_output_shape(0)))
    return count <= _LARGEST_GROUP * array.size and bool(((sizes >= low) & (sizes <= high)).all())


def _behind_convert(array: Array) -> Foreign:
    import openvino as ov
    from openvino import opset13

    if array.dtype == ml_dtypes.bfloat16:  # numpy has no such type, OpenVINO takes its bytes
        tensor = ov.Tensor(array.view(np.uint16), ov.Shape(list(array.shape)), ov.Type.bf16)
        return opset13.convert(opset13.constant(tensor, shared_memory=False), "f32")
    return opset13.convert(opset13.constant(array), "f32")
