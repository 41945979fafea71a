"""A `.tflite` file to an ONNX graph; a quantized one keeps its quantization as QDQ pairs."""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from pathlib import Path

import onnx_ir as ir

from trimtab.errors import ModelError
from trimtab.graph.dequantize import remove_step
from trimtab.graph.tensorflow_import import (
    OPSET,
    check_operators,
    clean_name,
    one_line,
    quiet_tf2onnx,
    unique,
    untie_constant_biases,
)
from trimtab.graph.tflite_file import plain_tflite
from trimtab.graph.tflite_handlers import tflite_handlers
from trimtab.tensorflow_setup import import_tensorflow

_WIDE_INTEGERS = (ir.DataType.INT16, ir.DataType.UINT16, ir.DataType.INT64)


def read_tflite(path: Path) -> ir.Model:
    """Reads a `.tflite` file.

    Raises:
        ModelError: The file is no TFLite model, or tf2onnx cannot convert it.
        UnsupportedOperatorError: It has operators that ONNX lacks.
    """
    content = plain_tflite(path.read_bytes(), str(path))
    import_tensorflow()
    import tf2onnx

    try:
        # tf2onnx reads a file, and runs the interpreter, which prints what it delegates.
        with (
            tempfile.NamedTemporaryFile(suffix=".tflite") as plain,
            quiet_tf2onnx(),
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            plain.write(content)
            plain.flush()
            warnings.simplefilter("ignore")
            proto, _ = tf2onnx.convert.from_tflite(
                plain.name, opset=OPSET, custom_op_handlers=tflite_handlers()
            )
    # tf2onnx's reader raises whatever the flatbuffer or a broken shape makes it raise.
    except Exception as error:
        raise ModelError(f"{path} cannot be converted to ONNX: {one_line(error)}") from error
    check_operators(proto, str(path))
    model: ir.Model = ir.from_proto(proto)
    _free_wide_integers(model)
    _tidy_ports(model)
    untie_constant_biases(model)
    return model


def _free_wide_integers(model: ir.Model) -> None:
    """Makes activations of 16 bits float, and the biases of 64 bits that come with them.

    ONNX's steps of opset 17 have 8 bits; what 16 bits round off, 1 part in 65,536, is lost anyway.
    """
    for node in list(model.graph):
        zero = node.inputs[2] if len(node.inputs) > 2 else None
        if (
            node.op_type in ("QuantizeLinear", "DequantizeLinear")
            and zero is not None
            and zero.dtype in _WIDE_INTEGERS
        ):
            remove_step(model, node)


def _tidy_ports(model: ir.Model) -> None:
    """Gives inputs and outputs names without TensorFlow's `serving_default_` and `:0`."""
    ports = [*model.graph.inputs, *model.graph.outputs]
    names = [clean_name(str(value.name)).removeprefix("serving_default_") for value in ports]
    for number, value in enumerate(ports):
        value.name = f"__port_{number}"
    taken = {str(value.name) for node in model.graph for value in node.outputs}
    for value, name in zip(ports, unique(names, taken), strict=True):
        value.name = name
