"""ONNX Runtime's tensors and numpy's arrays.

numpy has no bfloat16, and a device does not carry a package that adds it. So a bfloat16 tensor at
the edge of a graph is float32 to the caller: rounded to the nearest on the way in, exact on the
way out.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from trimtab_agent.errors import FormatError
from trimtab_agent.runtimes.base import Foreign

if TYPE_CHECKING:
    from trimtab_agent.runtimes.base import Array

BFLOAT16 = "tensor(bfloat16)"
_ONNX_BFLOAT16 = 16  # TensorProto.BFLOAT16

# The types of the ONNX specification by numpy's names; ONNX Runtime prints the left side.
DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    BFLOAT16: "float32",
    **{f"tensor({name})": name for name in ("float16", "bool")},
    **{
        f"tensor({sign}int{bits})": f"{sign}int{bits}"
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
}


def check_has_bfloat16(module: ModuleType, version: str, path: Path) -> None:
    """Checks that this ONNX Runtime takes bfloat16 from Python.

    Raises:
        FormatError: It is too old.
    """
    if not hasattr(module.OrtValue, "ortvalue_from_numpy_with_onnx_type"):
        raise FormatError(
            f"{path} has bfloat16 inputs or outputs, which onnxruntime {version} does not take "
            "from Python: update it, or give the model float32 inputs and outputs"
        )


def run(
    module: ModuleType, session: Foreign, names: Sequence[str], feeds: Mapping[str, Array]
) -> list[Array]:
    """Runs a session that has bfloat16 tensors at its edge.

    Args:
        module: ONNX Runtime; `check_has_bfloat16` has passed.
        session: The session.
        names: Of the outputs.
        feeds: The inputs by name.
    """
    types = {node.name: node.type for node in session.get_inputs()}
    given = {
        name: module.OrtValue.ortvalue_from_numpy_with_onnx_type(to_bfloat16(array), _ONNX_BFLOAT16)
        if types[name] == BFLOAT16
        else module.OrtValue.ortvalue_from_numpy(array)
        for name, array in feeds.items()
    }
    return [_array(value) for value in session.run_with_ort_values(list(names), given)]


def to_bfloat16(array: Array) -> Array:
    """Returns the bits of float32 numbers rounded to bfloat16, halves to even, as uint16."""
    import numpy as np

    bits = np.ascontiguousarray(array).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1)).astype(np.uint32)) >> 16
    # Adding to the bits of a NaN could make an infinity of it.
    return np.where(np.isnan(array), np.uint32(0x7FC0), rounded).astype(np.uint16)


def from_bfloat16(bits: Array) -> Array:
    """Returns the float32 numbers whose bfloat16 bits are given as uint16."""
    import numpy as np

    return (bits.astype(np.uint32) << 16).view(np.float32)


def _array(value: Foreign) -> Array:
    """Returns a result as an array of its own."""
    import numpy as np

    if value.data_type() != BFLOAT16:
        return np.array(value.numpy())
    shape = tuple(value.shape())
    if 0 in shape:
        return np.zeros(shape, np.float32)
    pointer = ctypes.cast(value.data_ptr(), ctypes.POINTER(ctypes.c_uint16))
    return from_bfloat16(np.ctypeslib.as_array(pointer, shape=shape))
