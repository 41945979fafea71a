"""Makes the `.tflite` files in tests/agent/data by the schema's object API that LiteRT ships.

They are kept in the repository because tflite-runtime 2.14, which must load them, comes without
the schema. All operators are of versions that it has.
"""

from __future__ import annotations

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

from support.models import INPUTS, WIDTH


def arithmetic(batch: int | None) -> bytes:
    """The model of `support.models`; `batch` None leaves the first axis free."""

    def options(index: int, output: int, kind: int, made: object) -> schema.OperatorT:
        operator = _operator(index, [0, 1], [output])
        operator.builtinOptionsType, operator.builtinOptions = kind, made
        return operator

    tensors = [_tensor(name, batch) for name in (*INPUTS, "sum", "difference")]
    operators = [
        options(0, 2, schema.BuiltinOptions.AddOptions, schema.AddOptionsT()),
        options(1, 3, schema.BuiltinOptions.SubOptions, schema.SubOptionsT()),
    ]
    codes = [_code(schema.BuiltinOperator.ADD, 1), _code(schema.BuiltinOperator.SUB, 1)]
    return _model(tensors, [0, 1], [2, 3], operators, codes)


def dequantize() -> bytes:
    """Takes int8 at the edge, `codes` of scale 0.5 and zero point 3, and gives `values`."""
    codes, values = _tensor("codes", 1), _tensor("values", 1)
    codes.type = schema.TensorType.INT8
    codes.quantization = schema.QuantizationParametersT()
    codes.quantization.scale, codes.quantization.zeroPoint = [0.5], [3]
    kernel = _code(schema.BuiltinOperator.DEQUANTIZE, 2)  # 2: of int8
    return _model([codes, values], [0], [1], [_operator(0, [0], [1])], [kernel])


def partly() -> bytes:
    """Gives the remainder of zeta + alpha by alpha: XNNPACK has the sum and not the remainder."""
    tensors = [_tensor(name, 1) for name in (*INPUTS, "sum", "remainder")]
    codes = [_code(schema.BuiltinOperator.ADD, 1), _code(schema.BuiltinOperator.FLOOR_MOD, 1)]
    add = _operator(0, [0, 1], [2])
    add.builtinOptionsType, add.builtinOptions = (
        schema.BuiltinOptions.AddOptions,
        schema.AddOptionsT(),
    )
    return _model(tensors, [0, 1], [3], [add, _operator(1, [2, 1], [3])], codes)


def _tensor(name: str, batch: int | None) -> schema.TensorT:
    made = schema.TensorT()
    made.name = name.encode()
    made.shape = [batch or 1, WIDTH]
    made.shapeSignature = [batch or -1, WIDTH]
    made.type = schema.TensorType.FLOAT32
    return made


def _operator(index: int, inputs: list[int], outputs: list[int]) -> schema.OperatorT:
    made = schema.OperatorT()
    made.opcodeIndex, made.inputs, made.outputs = index, inputs, outputs
    return made


def _code(builtin: int, version: int) -> schema.OperatorCodeT:
    made = schema.OperatorCodeT()
    made.builtinCode = made.deprecatedBuiltinCode = builtin
    made.version = version
    return made


def _model(tensors, inputs, outputs, operators, codes) -> bytes:
    graph = schema.SubGraphT()
    graph.name = b"main"
    graph.tensors, graph.inputs, graph.outputs = tensors, inputs, outputs
    graph.operators = operators
    model = schema.ModelT()
    model.version, model.description = 3, b"arithmetic"
    model.operatorCodes = codes
    model.subgraphs, model.buffers = [graph], [schema.BufferT()]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


FILES = {
    "arithmetic-free.tflite": lambda: arithmetic(None),
    "arithmetic-batch1.tflite": lambda: arithmetic(1),
    "dequantize-int8.tflite": dequantize,
    "remainder.tflite": partly,
}
