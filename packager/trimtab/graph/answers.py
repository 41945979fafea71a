"""The values that a graph's answers are read from."""

from __future__ import annotations

import onnx_ir as ir

_PROBABILITIES = frozenset({"LogSoftmax", "Sigmoid", "Softmax"})


def is_answer(value: ir.Value) -> bool:
    """Says whether a value is an output of the graph, or all that a final Softmax or Sigmoid reads.

    Of answers the largest are what matters, and two that are near each other must stay apart.
    """
    if value.is_graph_output():
        return True
    uses = list(value.uses())
    return bool(uses) and all(
        use.node.op_type in _PROBABILITIES and use.node.outputs[0].is_graph_output() for use in uses
    )
