"""Why an operator of a quantized graph still computes in float."""

from __future__ import annotations

import onnx_ir as ir

from trimtab.graph.access import constant
from trimtab.graph.macs import multiplies
from trimtab.graph.precision import may_round_activations

_BEHIND = ("Relu", "Clip", "Add")
"""What a runtime may make one operator of, together with the layer before."""


class FloatReasons:
    """Answers for one graph.

    Args:
        model: The graph that a file was written from.
        runtime: The runtime's name, for people.
    """

    def __init__(self, model: ir.Model, runtime: str) -> None:
        self._runtime = runtime
        self._makers = {str(value.name): node for node in model.graph for value in node.outputs}
        self._makers |= {node.name: node for node in model.graph if node.name}
        self._is_quantized = any(
            node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph
        )

    def why(self, names: tuple[str, ...]) -> str | None:
        """Says why an operator computes in float; None if the whole graph is float.

        Args:
            names: Nodes or values of the graph that the operator was made of or makes.
        """
        if not self._is_quantized:
            return None
        nodes = [self._makers[name] for name in names if name in self._makers]
        if not nodes:
            return f"{self._runtime} added it between other operators"
        if all(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in nodes):
            return "it is where floats become integers, or integers floats"
        return self._why(_main(nodes))

    def _why(self, node: ir.Node) -> str:
        weights = [found for value in node.inputs if (found := _stored(value)) is not None]
        activations = [value for value in node.inputs if value is not None and _is_paired(value)]
        if activations:
            return (
                f"{self._runtime} has no integer kernel for {node.op_type} between these pairs, or "
                "no faster one"
            )
        if any(may_round_activations(weight) for weight in weights):
            return f"{self._runtime} has no integer kernel for {node.op_type} that is faster"
        if weights:
            return "only its weights are stored as integers"
        return "the graph has no pair of QuantizeLinear and DequantizeLinear before it"


def _main(nodes: list[ir.Node]) -> ir.Node:
    """Returns the layer among the nodes that an operator was made of, or before its end."""
    layers = [node for node in nodes if multiplies(node)]
    if layers:
        return layers[0]
    node = nodes[0]
    while node.op_type in _BEHIND and node.inputs and node.inputs[0] is not None:
        before = node.inputs[0].producer()
        if before is None or before.op_type not in (*_BEHIND, "Conv", "Gemm", "MatMul"):
            break
        node = before
    return node


def _stored(value: ir.Value | None) -> ir.Node | None:
    """Returns the DequantizeLinear of a stored weight, where a Reshape may stand between."""
    node = None if value is None else value.producer()
    if node is not None and node.op_type == "Reshape" and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is None or node.op_type != "DequantizeLinear" or constant(node.inputs[0]) is None:
        return None
    return node


def _is_paired(value: ir.Value) -> bool:
    node = value.producer()
    return (
        node is not None and node.op_type == "DequantizeLinear" and constant(node.inputs[0]) is None
    )
