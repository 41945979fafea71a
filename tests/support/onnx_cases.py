"""ONNX's own test cases of single nodes, run through the engine."""

from __future__ import annotations

import fnmatch
import functools
import warnings

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from trimtab.engine.supported import supported_operators

ALL = 99
DATA_INPUTS = {
    **dict.fromkeys(
        ("Add", "Sub", "Mul", "Div", "Pow", "MatMul", "Mod", "GatherElements", "GatherND"), 2
    ),
    **dict.fromkeys(("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"), 2),
    **dict.fromkeys(("And", "Or", "Xor", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Gather"), 2),
    **dict.fromkeys(("Max", "Min", "Sum", "Mean", "Concat", "Einsum", "Attention"), ALL),
    **dict.fromkeys(("Where", "ScatterElements", "ScatterND"), 3),
    **dict.fromkeys(("ReverseSequence", "CastLike"), 2),
    **dict.fromkeys(("DequantizeLinear", "ConstantOfShape", "Range"), 0),
}
"""How many inputs of an operator are data. The others (axes, bounds, scales, weights) are
initializers here, as they are in every cleaned graph; it is one where nothing else is said."""

REFUSED = {
    "types that TensorFlow lacks: 8-bit floats, integers of 4 and 2 bits": (
        "test_cast*_*FLOAT8*", "test_cast*_*FLOAT4*", "test_cast*_e8m0_*",
        "test_cast*_*INT4*", "test_cast*_*INT2*", "test_dequantizelinear_e?m*",
        "test_dequantizelinear_float4*", "test_quantizelinear_e?m*", "test_quantizelinear_float4*",
    ),
    "integers of 4 and 2 bits that leave the graph: they come in pairs and stored weights": (
        "test_quantizelinear_*int4", "test_quantizelinear_*int2",
    ),
    "three spatial dimensions": (
        "test_averagepool_3d_*", "test_maxpool_3d_*", "test_lppool_3d_*", "test_convtranspose_3d",
    ),
    "training mode": ("test_batchnorm_*_training_mode", "test_training_dropout*"),
    "indices of a maximum": ("test_maxpool_with_argmax_*",),
    "attention weights as an output": ("test_attention_*qk_matmul*",),
    "attention over a window, or with lengths of caches": (
        "test_attention_*_window", "test_attention_*_window_[!d]*",
        "test_attention_*padded_kv*", "test_attention_*nonpad*",
    ),
    "regions of interest": ("test_resize_tf_crop_and_resize*",),
    "products of scattered updates": ("test_scatter*_mul*",),
    "fractional powers of integers": ("test_pow_types_int??_float32",),
    "fractional remainders of half precision": ("test_mod_mixed_sign_float16",),
}  # fmt: skip
"""Cases that the engine must refuse with an UnsupportedOperatorError, as patterns, by reason."""


def runtime_outputs(model: ir.Model, data: list[np.ndarray]) -> list[np.ndarray]:
    """What ONNX Runtime makes of the same arrays, whole: no axis of them is a batch here."""
    import onnxruntime as ort

    session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
    names = [value.name for value in model.graph.inputs]
    return session.run(None, dict(zip(names, data, strict=True)))


@functools.cache
def cases():
    """All cases of one node with an operator that the engine knows, by name."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, about the nan and inf that cases are made of
        found = collect_testcases(None)
    known = set(supported_operators())
    return {
        case.name: case
        for case in found
        if len(case.model.graph.node) == 1
        and case.model.graph.node[0].domain == ""
        and case.model.graph.node[0].op_type in known
        and "FLOAT8E8M0_to" not in case.name  # TensorFlow has no such tensors to begin with
    }


def to_array(value):
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value)


def prepared(case) -> tuple[ir.Model, list[np.ndarray], list[np.ndarray]]:
    """Returns a case's model with all but the data made initializers, its data and its answers."""
    proto = onnx.ModelProto()
    proto.CopyFrom(case.model)
    inputs, outputs = case.data_sets[0]
    arrays = dict(zip((entry.name for entry in proto.graph.input), inputs, strict=True))
    node = proto.graph.node[0]
    for name in node.input[DATA_INPUTS.get(node.op_type, 1) :]:
        if name in arrays:
            proto.graph.initializer.append(
                numpy_helper.from_array(to_array(arrays.pop(name)), name)
            )
    kept = [entry for entry in proto.graph.input if entry.name in arrays]
    del proto.graph.input[:]
    proto.graph.input.extend(kept)
    return (
        ir.from_proto(proto),
        [to_array(a) for a in arrays.values()],
        list(map(to_array, outputs)),
    )


def reason_to_refuse(name: str) -> str | None:
    for reason, patterns in REFUSED.items():
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            return reason
    return None


def engine_outputs(model: ir.Model, data: list[np.ndarray]) -> list[np.ndarray]:
    import tensorflow as tf

    from trimtab.engine.module import GraphModule

    module = GraphModule(model)
    return [np.asarray(output) for output in module([tf.constant(array) for array in data])]


def cases_of(operator: str) -> list[str]:
    """Names of an operator's cases."""
    return [name for name, case in cases().items() if operator_of(case) == operator]


def operator_of(case) -> str:
    return case.model.graph.node[0].op_type


def check_case(name: str) -> None:
    """Asserts that the engine computes what a case expects."""
    model, data, expected = prepared(cases()[name])
    check_outputs(name, engine_outputs(model, data), expected)


def check_outputs(name: str, outputs: list[np.ndarray], expected: list[np.ndarray]) -> None:
    """Asserts equality within the case's tolerance, or two units of a short float's last place."""
    case = cases()[name]
    for actual, wished in zip(outputs, expected, strict=True):
        assert (actual.shape, actual.dtype) == (wished.shape, wished.dtype), name
        short = wished.dtype.name in ("float16", "bfloat16")
        rtol = max(case.rtol, 2 * float(ml_dtypes.finfo(wished.dtype).eps)) if short else case.rtol
        np.testing.assert_allclose(
            actual, wished, rtol=rtol, atol=case.atol, err_msg=name, strict=True
        )


PLAIN_TYPES = {"float32", "int64", "int32", "bool"}


def lowerable(name: str) -> bool:
    """Whether a case can be asked for as a file: it has inputs, of types that LiteRT takes."""
    _, data, _ = prepared(cases()[name])
    return bool(data) and all(array.size and array.dtype.name in PLAIN_TYPES for array in data)


def is_float(name: str) -> bool:
    """Whether the first input of a case is a float one, which is what models mostly have."""
    return prepared(cases()[name])[1][0].dtype == np.float32


def check_file(name: str) -> None:
    """Asserts that a case's TFLite file computes what is expected, within 1e-5.

    Raises:
        ExportError: TFLite has no kernel for it.
    """
    from ai_edge_litert.interpreter import Interpreter

    from trimtab.engine.lower import to_tflite

    model, data, expected = prepared(cases()[name])
    runner = Interpreter(model_content=to_tflite(model)).get_signature_runner()
    inputs = [value.name for value in model.graph.inputs]
    outputs = runner(**dict(zip(inputs, data, strict=True)))
    for value, wished in zip(model.graph.outputs, expected, strict=True):
        np.testing.assert_allclose(outputs[value.name], wished, rtol=1e-3, atol=1e-5)
