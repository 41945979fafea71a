"""Which ONNX operators the engine knows, and the check that names all that it lacks."""

from __future__ import annotations

import onnx_ir as ir

from trimtab.engine import operators  # noqa: F401  (its modules fill the registry)
from trimtab.engine.registry import REGISTRY, Operator
from trimtab.errors import UnsupportedOperatorError


def lookup(name: str) -> Operator:
    """Returns the function for an operator that `check_supported` has seen."""
    return REGISTRY[name].run


def trainable_inputs(name: str) -> frozenset[int]:
    """Returns the positions of an operator's inputs that training may change."""
    return REGISTRY[name].trainable if name in REGISTRY else frozenset()


def supported_operators() -> tuple[str, ...]:
    """Returns the names of all operators that the engine knows, sorted."""
    return tuple(sorted(REGISTRY))


def check_supported(model: ir.Model) -> None:
    """Checks that the engine knows every operator of a graph.

    Raises:
        UnsupportedOperatorError: It lacks some; all are named, with how often each occurs.
    """
    counts: dict[str, int] = {}
    for node in model.graph:
        name = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
        if name not in REGISTRY:
            counts[name] = counts.get(name, 0) + 1
    if counts:
        listed = ", ".join(f"{name} ({count}x)" for name, count in sorted(counts.items()))
        raise UnsupportedOperatorError(
            f"the training engine does not know these operators: {listed}. Fine-tuning and TFLite "
            "need them; int8 for ONNX Runtime and OpenVINO works without",
            counts,
        )
