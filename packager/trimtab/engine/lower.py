"""A graph to a TFLite file, through TensorFlow's converter."""

from __future__ import annotations

import re

import onnx_ir as ir

from trimtab.engine.fuse import fuse_gelu
from trimtab.engine.module import GraphModule
from trimtab.engine.supported import check_supported
from trimtab.errors import ExportError
from trimtab.tensorflow_setup import import_tensorflow


def to_tflite(model: ir.Model) -> bytes:
    """Returns `model` as a TFLite flatbuffer with a batch of one.

    The weights are constants of the function, so that the file cannot come out unfrozen (given
    variables and a trackable object, the converter writes a file that runs at chance). A graph
    with QuantizeLinear/DequantizeLinear pairs becomes an int8 one with float inputs and outputs.

    Raises:
        UnsupportedOperatorError: The engine lacks operators of the graph.
        ExportError: An input has free dimensions, or the converter refuses the function.
    """
    check_supported(model)
    tf = import_tensorflow()
    module = GraphModule(fuse_gelu(model))
    names = [str(value.name) for value in model.graph.outputs]

    def serve(*tensors: object) -> dict[str, object]:
        return dict(zip(names, module(tensors), strict=True))

    specs = [_spec(value) for value in model.graph.inputs]
    holder = tf.Module()
    holder.serve = tf.function(serve, input_signature=specs, autograph=False)
    function = holder.serve.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], holder)
    if any(node.op_type == "QuantizeLinear" for node in model.graph):
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    try:
        return bytes(converter.convert())
    except Exception as error:
        raise ExportError(f"the TFLite converter refuses the model: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Names the operators that TFLite has no kernel for, out of the converter's many lines."""
    missing = sorted(set(re.findall(r"'tf\.(\w+)' op is neither", str(error))))
    return f"TFLite has no kernel for {', '.join(missing)}" if missing else str(error)


def _spec(value: ir.Value) -> object:
    import tensorflow as tf

    dims = list(value.shape or ())
    free = [index for index, dim in enumerate(dims) if index and not isinstance(dim, int)]
    if free:
        raise ExportError(
            f"input {value.name!r} has free dimensions besides the batch, {free}; a TFLite file "
            "has fixed ones: export the model with them set"
        )
    dtype = value.dtype.numpy() if value.dtype is not None else "float32"
    # A first dimension that is fixed is no batch: the layers of a recurrent state, for one.
    batch = [dim if isinstance(dim, int) else 1 for dim in dims[:1]]
    return tf.TensorSpec([*batch, *dims[1:]], tf.as_dtype(dtype), name=str(value.name))
