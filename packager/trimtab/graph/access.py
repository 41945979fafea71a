"""Small questions that every technique asks of a graph, and small changes that each makes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

Array = NDArray[Any]

_logger = logging.getLogger(__name__)


def constant(value: ir.Value | None) -> Array | None:
    """Returns the numpy array that an initializer holds, or None if the value is computed."""
    if value is None or value.const_value is None or value.producer() is not None:
        return None
    return value.const_value.numpy()


def integers(node: ir.Node, index: int, attribute: str) -> tuple[int, ...] | None:
    """Reads integers that newer opsets pass as an input and older ones as an attribute.

    Args:
        node: The node.
        index: The input's position.
        attribute: The attribute's name in older opsets.

    Returns:
        The integers, or None if neither is given or the input is computed.
    """
    if attribute in node.attributes:
        return tuple(node.attributes[attribute].as_ints())
    if index < len(node.inputs):
        array = constant(node.inputs[index])
        return None if array is None else tuple(int(item) for item in array.reshape(-1))
    return None


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """Returns an attribute's value, or `default` if the node does not carry it."""
    return node.attributes[name].value if name in node.attributes else default


def shape_of(value: ir.Value | None) -> tuple[int | None, ...] | None:
    """Returns the shape with None for dimensions that are free, or None if it is unknown."""
    if value is None or value.shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else None for dim in value.shape)


def rank_of(value: ir.Value | None) -> int | None:
    """Returns the number of dimensions, or None if it is unknown."""
    return None if value is None or value.shape is None else len(value.shape)


def only_consumer(value: ir.Value) -> ir.Node | None:
    """Returns the node that alone uses `value`, or None if it is an output or has more uses."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return None
    # The branch of an If or the body of a Loop uses values of the graph around it.
    return uses[0].node if uses[0].node.graph is value.graph else None


def add_initializer(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """Registers a new initializer and returns its value.

    Args:
        graph: The graph.
        name: The wished name; a number is appended if it is taken.
        array: Its content.
    """
    free, number = name, 0
    while free in graph.initializers:
        number += 1
        free = f"{name}_{number}"
    tensor = ir.tensor(np.asarray(array, order="C"), name=free)
    value = ir.Value(
        name=free,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def set_initializer(value: ir.Value, array: Array) -> None:
    """Gives an initializer new content; the shape may change, the data type stays."""
    value.const_value = ir.tensor(np.asarray(array, order="C"), name=value.name)
    value.shape = ir.Shape(array.shape)


HOLD_KEY = "trimtab.hold"
"""Where an initializer says what must be kept of it; ONNX files carry it as metadata."""


def hold(value: ir.Value, kind: Literal["zeros", "clusters", "model_clusters"]) -> None:
    """Marks a weight: whatever changes it later keeps its zeros, or its few distinct values.

    Those of `model_clusters` are the same in all weights that are marked so.
    """
    value.metadata_props[HOLD_KEY] = kind


def held(value: ir.Value) -> str | None:
    """Returns what must be kept of a weight, as `hold` takes it, or None."""
    return value.metadata_props.get(HOLD_KEY)


def insert_after(
    node: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, Any] | None = None,
) -> ir.Value:
    """Inserts a new one-output node right after `node` and returns its output."""
    new = ir.node(op_type, inputs, attributes)
    graph = node.graph
    if not isinstance(graph, ir.Graph):
        raise TypeError("the node does not belong to a graph")
    graph.insert_after(node, new)
    return new.outputs[0]


def replace_value(old: ir.Value, new: ir.Value) -> None:
    """Makes every user of `old`, the graph's outputs included, use `new`.

    A graph output keeps its name and its type.
    """
    if old.is_graph_output():
        new.name, old.name = old.name, f"{old.name}_replaced"
        new.shape = new.shape if new.shape is not None else old.shape
        new.type = new.type if new.type is not None else old.type
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


_STANDARD = ("", "ai.onnx")


def infer_shapes(model: ir.Model) -> None:
    """Fills in the shapes of all values, in place, forgetting what was known of inner ones.

    What follows an operator that shape inference cannot deal with stays unknown; the rest is
    filled in. Operators that are not ONNX's keep the shapes that their exporter wrote down.
    """
    for node in model.graph:
        for output in node.outputs:
            if not output.is_graph_output() and node.domain in _STANDARD:
                output.shape = None
    with _failures_as_debug():
        common.ShapeInferencePass(check_type=False, strict_mode=False)(model)


@contextmanager
def _failures_as_debug() -> Iterator[None]:
    """Takes over what onnx-ir would log as a warning with a traceback."""
    noisy = logging.getLogger(common.ShapeInferencePass.__module__)

    def take_over(record: logging.LogRecord) -> bool:
        _logger.debug("shape inference: %s", record.getMessage(), exc_info=record.exc_info)
        return False

    noisy.addFilter(take_over)
    try:
        yield
    finally:
        noisy.removeFilter(take_over)
