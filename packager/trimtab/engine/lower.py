"""A graph to a TFLite file, through TensorFlow's converter."""

from __future__ import annotations

import re
from collections.abc import Sequence

import onnx_ir as ir

from trimtab.engine.expand import expand
from trimtab.engine.float_joins import mark_float_joins
from trimtab.engine.fuse import fuse_gelu
from trimtab.engine.module import GraphModule
from trimtab.engine.supported import check_supported
from trimtab.errors import ExportError
from trimtab.graph.precision import has_int16_activations, has_integer_activations
from trimtab.tensorflow_setup import import_tensorflow


def to_tflite(model: ir.Model) -> bytes:
    """Returns `model` as a TFLite flatbuffer with a batch of one, inputs and outputs in its order.

    The weights are constants of the function, so that the file cannot come out unfrozen (given
    variables and a trackable object, the converter writes a file that runs at chance). A graph
    with QuantizeLinear/DequantizeLinear pairs becomes an int8 one with float inputs and outputs.

    Raises:
        UnsupportedOperatorError: The engine lacks operators of the graph.
        ExportError: An input has free dimensions, or the converter refuses the function.
    """
    check_supported(model)
    tf = import_tensorflow()
    integers = has_integer_activations(model)
    module = GraphModule(expand(fuse_gelu(mark_float_joins(model) if integers else model)))
    entries = _entry_names(model)
    results = [str(value.name) for value in model.graph.outputs]

    def serve(*tensors: object) -> dict[str, object]:
        return dict(zip(results, module(tensors), strict=True))

    specs = [_spec(value, name) for value, name in zip(model.graph.inputs, entries, strict=True)]
    holder = tf.Module()
    holder.serve = tf.function(serve, input_signature=specs, autograph=False)
    function = holder.serve.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], holder)
    if integers:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if has_int16_activations(model):
        kind = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        converter.target_spec.supported_ops = [kind, tf.lite.OpsSet.TFLITE_BUILTINS]
    try:
        content = converter.convert()
    except Exception as error:
        raise ExportError(f"the TFLite converter refuses the model: {_reason(error)}") from error
    return _in_order(content, entries, results)


def _entry_names(model: ir.Model) -> list[str]:
    """Returns the inputs' names as TensorFlow takes them for arguments, without a warning."""
    names: list[str] = []
    for value in model.graph.inputs:
        name = re.sub(r"\W", "_", str(value.name), flags=re.ASCII).lstrip("_0123456789") or "input"
        while name in names:
            name += "_"
        names.append(name)
    return names


def _in_order(content: bytes, entries: Sequence[str], results: Sequence[str]) -> bytes:
    """Puts the file's inputs and outputs into the graph's order.

    The converter sorts them by hashes of its own. Their order is a vector of tensor numbers of the
    main subgraph (TFLite's schema.fbs), which is permuted where it lies; the signature, which
    tells the tensors' names, stays right.
    """
    from tensorflow.lite.python import schema_py_generated as schema

    buffer = bytearray(content)
    signature = schema.ModelT.InitFromPackedBuf(buffer).signatureDefs[0]
    graph = schema.Model.GetRootAs(buffer, 0).Subgraphs(signature.subgraphIndex)
    for order, named, names in (
        (graph.InputsAsNumpy(), signature.inputs, entries),
        (graph.OutputsAsNumpy(), signature.outputs, results),
    ):
        numbers = {entry.name.decode(): entry.tensorIndex for entry in named}
        order[:] = [numbers[name] for name in names]
    return bytes(buffer)


def _reason(error: Exception) -> str:
    """Says what TFLite has no kernel for, out of the converter's many lines."""
    missing = sorted(set(re.findall(r"'tf\.(\w+)' op is neither", str(error))))
    if missing:
        return f"TFLite has no kernel for {', '.join(missing)}"
    refused = re.search(r"'tfl\.(\w+)' op ([^\n]*)", str(error))
    if refused is None:
        return str(error)
    return f"TFLite's kernel of {refused[1]} does not take what it gets here ({refused[2]})"


def _spec(value: ir.Value, name: str) -> object:
    import tensorflow as tf

    dims = list(value.shape or ())
    free = [index for index, dim in enumerate(dims) if index and not isinstance(dim, int)]
    if free:
        raise ExportError(
            f"input {value.name!r} has free dimensions besides the batch, {free}; a TFLite file "
            "has fixed ones: give --data, whose samples have sizes, or export the model with them "
            "set"
        )
    dtype = value.dtype.numpy() if value.dtype is not None else "float32"
    # A first dimension that is fixed is no batch: the layers of a recurrent state, for one.
    batch = [dim if isinstance(dim, int) else 1 for dim in dims[:1]]
    return tf.TensorSpec([*batch, *dims[1:]], tf.as_dtype(dtype), name=name)
