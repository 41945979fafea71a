"""Graphs with weights that are integers behind DequantizeLinear, built by hand."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir

RNG = np.random.default_rng(0)
FLOAT = ir.DataType.FLOAT


class Stored:
    """A graph under construction: its weights are integers behind DequantizeLinear."""

    def __init__(self, *shape: int | str, dtype: ir.DataType = FLOAT) -> None:
        self.x = ir.val("x", shape=ir.Shape(["batch", *shape]), dtype=dtype)
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []

    def constant(self, array: np.ndarray) -> ir.Value:
        name = f"c{len(self.initializers)}"
        tensor = ir.tensor(array, name=name)
        value = ir.val(name, shape=ir.Shape(array.shape), dtype=tensor.dtype)
        value.const_value = tensor
        self.initializers.append(value)
        return value

    def op(self, kind: str, *inputs: ir.Value, shape=None, **attributes: object) -> ir.Value:
        node = ir.node(kind, inputs, attributes, name=f"n{len(self.nodes)}")
        self.nodes.append(node)
        output = node.outputs[0]
        output.name = f"v{len(self.nodes)}"
        output.type = ir.TensorType(FLOAT)
        if shape is not None:
            output.shape = ir.Shape(shape)
        return output

    def weight(
        self, *shape: int, kind: object = np.int8, axis: int = 1, block: int | None = None,
        dynamic: bool = False, zero: int = 0,
    ) -> ir.Value:  # fmt: skip
        limits = ml_dtypes.iinfo(kind)
        codes = RNG.integers(limits.min, limits.max + 1, shape).astype(kind)
        scaled = list(shape) if block else [shape[axis]]
        if block:
            scaled[axis] //= block
        scales = RNG.uniform(0.5, 1, scaled).astype(np.float32) / limits.max / shape[0] ** 0.5
        zeros = np.full(scaled, zero).astype(kind)
        attributes = {"axis": axis} | ({"block_size": block} if block else {})
        operands = [self.constant(array) for array in (codes, scales, zeros)]
        value = self.op("DequantizeLinear", *operands, shape=shape, **attributes)
        if dynamic:
            self.nodes[-1].metadata_props["trimtab.activations"] = "dynamic"
        return value

    def build(self, *outputs: ir.Value) -> ir.Model:
        graph = ir.Graph(
            [self.x], list(outputs), nodes=self.nodes, initializers=self.initializers,
            opset_imports={"": 21}, name="stored",
        )  # fmt: skip
        return ir.Model(graph, ir_version=10)


def off(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference as a share of the largest number."""
    return float(np.abs(actual - expected).max() / np.abs(expected).max())
