"""Small real models in each runtime's own format, made without a training framework.

Each takes the inputs `zeta` and `alpha` and gives `sum` = zeta + alpha and `difference` =
zeta - alpha. The names are in reverse alphabetical order, so that anything that sorts them shows.
"""

from __future__ import annotations

from pathlib import Path

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

INPUTS = ("zeta", "alpha")
WIDTH = 3


def write_model(runtime: str, folder: Path, *, batch: int | None = None) -> Path:
    """Writes the model for `runtime` into `folder`; `batch` None leaves the first axis free."""
    return {"tflite": write_tflite, "onnxruntime": write_onnx, "openvino": write_openvino}[runtime](
        folder, batch
    )


def write_onnx(folder: Path, batch: int | None) -> Path:
    import onnx
    from onnx import TensorProto, helper

    def value(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch or "n", WIDTH])

    graph = helper.make_graph(
        [
            helper.make_node("Add", list(INPUTS), ["sum"]),
            helper.make_node("Sub", list(INPUTS), ["difference"]),
        ],
        "arithmetic",
        [value(name) for name in INPUTS],
        [value("sum"), value("difference")],
    )
    # Old enough for every onnxruntime that the agent accepts.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path


def write_openvino(folder: Path, batch: int | None) -> Path:
    import openvino

    path = folder / "model.xml"
    openvino.save_model(openvino.convert_model(write_onnx(folder, batch)), path)
    return path


def write_tflite(folder: Path, batch: int | None) -> Path:
    """Writes the flatbuffer itself, by the schema's object API that LiteRT ships."""

    def tensor(name: str) -> schema.TensorT:
        made = schema.TensorT()
        made.name = name.encode()
        made.shape = [batch or 1, WIDTH]
        made.shapeSignature = [batch or -1, WIDTH]
        made.type = schema.TensorType.FLOAT32
        return made

    def operator(index: int, output: int, kind: int, options: object) -> schema.OperatorT:
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = index, [0, 1], [output]
        made.builtinOptionsType, made.builtinOptions = kind, options
        return made

    def code(builtin: int) -> schema.OperatorCodeT:
        made = schema.OperatorCodeT()
        made.builtinCode = made.deprecatedBuiltinCode = builtin
        made.version = 1
        return made

    graph = schema.SubGraphT()
    graph.name = b"main"
    graph.tensors = [tensor(name) for name in (*INPUTS, "sum", "difference")]
    graph.inputs, graph.outputs = [0, 1], [2, 3]
    graph.operators = [
        operator(0, 2, schema.BuiltinOptions.AddOptions, schema.AddOptionsT()),
        operator(1, 3, schema.BuiltinOptions.SubOptions, schema.SubOptionsT()),
    ]
    model = schema.ModelT()
    model.version, model.description = 3, b"arithmetic"
    model.operatorCodes = [
        code(schema.BuiltinOperator.ADD),
        code(schema.BuiltinOperator.SUB),
    ]
    model.subgraphs, model.buffers = [graph], [schema.BufferT()]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    path = folder / "model.tflite"
    path.write_bytes(bytes(builder.Output()))
    return path


def write_golden(path: Path, samples: int = 4, *, error: float = 0.0) -> Path:
    """Writes golden samples of the model, the first output off by `error` in the last sample."""
    random = np.random.default_rng(7)
    zeta, alpha = random.normal(size=(2, samples, WIDTH)).astype(np.float32)
    total = zeta + alpha
    total[-1, -1] += error
    np.savez(path, in_0=zeta, in_1=alpha, out_0=total, out_1=zeta - alpha)
    return path
