"""A TensorFlow function to an ONNX graph: what Keras models and SavedModels have in common."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from trimtab.errors import ModelError, UnsupportedOperatorError
from trimtab.graph.access import add_initializer, constant
from trimtab.graph.tensorflow_handlers import handlers

OPSET = 17
"""Highest opset that tf2onnx 1.17 writes reliably, and one that every supported runtime reads."""


def convert_function(
    function: Any, signature: Sequence[Any], outputs: Sequence[str], source: str
) -> ir.Model:
    """Converts a `tf.function`.

    Args:
        function: Takes the inputs as positional arguments, returns a flat list of outputs.
        signature: A `tf.TensorSpec` an input, named.
        outputs: A name for each output.
        source: What is converted, for messages.

    Raises:
        ModelError: TensorFlow or tf2onnx cannot convert it.
        UnsupportedOperatorError: ONNX has no operator for some of TensorFlow's; they are named.
    """
    import tf2onnx

    try:
        with quiet_tf2onnx(), _einsum_kept():
            proto, _ = tf2onnx.convert.from_function(
                function, list(signature), opset=OPSET, custom_op_handlers=handlers()
            )
    except (ValueError, TypeError, RuntimeError, NotImplementedError, KeyError) as error:
        raise ModelError(f"{source} cannot be converted to ONNX: {one_line(error)}") from error
    check_operators(proto, source)
    _fill_captured(proto, function.get_concrete_function(*signature))
    _name_outputs(proto, unique(outputs, {entry.name for entry in proto.graph.input}))
    model: ir.Model = ir.from_proto(proto)
    untie_constant_biases(model)
    return model


def _fill_captured(proto: onnx.ModelProto, function: Any) -> None:
    """Makes constants of tensors that the function took from outside, such as a layer's mean.

    tf2onnx freezes variables only; plain tensors come out as further inputs of the graph.
    """
    graph = function.graph
    captured = {
        inner.name: outer
        for outer, inner in zip(graph.external_captures, graph.internal_captures, strict=True)
        if inner.dtype.name != "resource"
    }
    for entry in list(proto.graph.input):
        if entry.name in captured:
            array = captured[entry.name].numpy()
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, entry.name))
            proto.graph.input.remove(entry)


@contextmanager
def quiet_tf2onnx() -> Iterator[None]:
    """Holds tf2onnx's log back: what it cannot convert is found in its result and raised."""
    logger = logging.getLogger("tf2onnx")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _einsum_kept() -> Iterator[None]:
    """Keeps tf2onnx from writing Einsum out.

    It computes shapes at run time for that and mixes the heads of attention with the batch, after
    which nothing can tell them apart; cleaning writes it as plain matrix products instead.
    """
    from tf2onnx import optimizer

    passes = optimizer._optimizers  # noqa: SLF001  # there is no public way to leave one out
    before = dict(passes)
    passes.pop("einsum_optimizer", None)
    try:
        yield
    finally:
        passes.clear()
        passes.update(before)


def check_operators(proto: onnx.ModelProto, source: str) -> None:
    """Refuses a graph in which tf2onnx left operators that ONNX does not have.

    Raises:
        UnsupportedOperatorError: There are some; all are named.
    """
    found = {node.op_type for node in _nodes(proto.graph) if not node.domain}
    unknown = sorted(name for name in found if not onnx.defs.has(name))
    if unknown:
        names = [name.removeprefix("TFL_") for name in unknown]
        raise UnsupportedOperatorError(
            f"{source} has TensorFlow operators that ONNX lacks: {', '.join(names)}; replace the "
            "layers that make them, or move them in front of the model",
            names,
        )


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attr in node.attribute:
            for inner in [attr.g] if attr.HasField("g") else attr.graphs:
                yield from _nodes(inner)


def _name_outputs(proto: onnx.ModelProto, names: Sequence[str]) -> None:
    """Gives the outputs their names in place of TensorFlow's `Identity:0`.

    An output may be an input, or another output too, so that each gets a node of its own.
    """
    for entry, name in zip(proto.graph.output, names, strict=True):
        proto.graph.node.append(onnx.helper.make_node("Identity", [entry.name], [f"{name}__out"]))
        entry.name = f"{name}__out"
    # Only now may an inner value have one of the names.
    model_names = {value for node in proto.graph.node for value in node.output}
    for entry, node, name in zip(
        proto.graph.output, list(proto.graph.node)[-len(names) :], names, strict=True
    ):
        if name in model_names:
            _rename(proto.graph, name, f"{name}__inner")
        node.output[0] = entry.name = name


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in _nodes(graph):
        for values in (node.input, node.output):
            for index, value in enumerate(values):
                if value == old:
                    values[index] = new


def untie_constant_biases(model: ir.Model) -> None:
    """Gives every layer a bias of its own where it is the same number throughout.

    tf2onnx stores equal constants once. Biases that are all zero by chance would then be trained
    and pruned as one.
    """
    for value in list(model.graph.initializers.values()):
        array = constant(value)
        if array is None or array.ndim != 1 or not array.size or array.dtype.kind != "f":
            continue
        if np.ptp(array) != 0:
            continue
        for use in [use for use in value.uses() if use.node.graph is model.graph][1:]:
            use.node.replace_input_with(
                use.idx, add_initializer(model.graph, str(value.name), array)
            )


def clean_name(name: str) -> str:
    """Returns a name that every runtime takes: letters, digits, `_`."""
    return re.sub(r"\W", "_", name.split(":", maxsplit=1)[0])


def unique(names: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """Returns the names, those that are taken or come twice with a number."""
    used, result = set(taken), []
    for name in names:
        free, number = name, 0
        while free in used:
            number += 1
            free = f"{name}_output" if number == 1 and name in set(taken) else f"{name}_{number}"
        used.add(free)
        result.append(free)
    return result


def one_line(error: Exception) -> str:
    """Returns an error's text for a message: on one line, and not without end."""
    return " ".join(str(error).split())[:300] or type(error).__name__
