"""A `.tflite` file of one layer, made without TensorFlow, and the graph that it stands for."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from ai_edge_litert import schema_py_generated as schema

from support.graphs import GraphBuilder
from trimtab.targets.tflite_flatbuffer import add_buffer, operator_code


def dense_graph(weights: np.ndarray) -> ir.Model:
    """`y = x W'` with weights `[outputs, inputs]`."""
    b = GraphBuilder(weights.shape[1])
    return b.build(b.op("Gemm", "x", b.constant(weights, np.float32), transB=1))


def dense_file(weights: np.ndarray) -> Any:
    """What the converter makes of `dense_graph`, as a `ModelT`."""
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.buffers, model.operatorCodes = 3, [schema.BufferT()], []
    number = add_buffer(model, weights.astype(np.float32))
    outputs, inputs = weights.shape
    graph.tensors = [
        _tensor("x", (1, inputs), 0),
        _tensor("weights", weights.shape, number),
        _tensor("y", (1, outputs), 0),
    ]
    operator = schema.OperatorT()
    operator.opcodeIndex = operator_code(model, schema.BuiltinOperator.FULLY_CONNECTED, 1)
    operator.inputs, operator.outputs = [0, 1, -1], [2]
    operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    operator.builtinOptions = schema.FullyConnectedOptionsT()
    graph.operators, graph.inputs, graph.outputs = [operator], [0], [2]
    model.subgraphs = [graph]
    return model


def _tensor(name: str, shape: tuple[int, ...], buffer: int) -> Any:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.buffer = name, list(shape), buffer
    tensor.type, tensor.hasRank = schema.TensorType.FLOAT32, True
    return tensor


def run(content: bytes, samples: np.ndarray) -> np.ndarray:
    """Runs a file of one input and one output, sample by sample."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    entry = interpreter.get_input_details()[0]["index"]
    leave = interpreter.get_output_details()[0]["index"]
    outputs = []
    for sample in samples:
        interpreter.set_tensor(entry, sample[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(leave)[0])
    return np.stack(outputs)
