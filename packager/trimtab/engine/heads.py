"""What a model's outputs are: logits of classes, independent logits or values; and their labels.

An output is known by the operator that makes it, or by its labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.errors import DataError
from trimtab.evaluate.tasks.choose import find_blank
from trimtab.evaluate.tasks.sequences import PADDING

Array = NDArray[Any]
Labels = Array | Sequence[Array | None] | None
"""For the first output, or one array or None for each output."""


@dataclass(frozen=True)
class Head:
    """One output, as the loss sees it.

    Attributes:
        value: What the loss works on: the output, or the logits from which it is made.
        kind: Class probabilities, independent probabilities, or values of any other kind.
        axis: Of the classes, where there are some.
    """

    value: ir.Value
    kind: Literal["softmax", "sigmoid", "values"]
    axis: int = -1


def heads(model: ir.Model) -> list[Head]:
    """Returns what the loss works on, for each output in order."""
    return [_head(output) for output in model.graph.outputs]


def _head(output: ir.Value) -> Head:
    producer = _before_pair(output).producer()
    if producer is not None and producer.inputs and (logits := producer.inputs[0]) is not None:
        axis = producer.attributes["axis"].as_int() if "axis" in producer.attributes else -1
        if producer.op_type == "Softmax":
            return Head(logits, "softmax", axis)
        if producer.op_type == "Sigmoid":
            return Head(logits, "sigmoid")
    return Head(output, "values")


def _before_pair(value: ir.Value) -> ir.Value:
    """Returns what a pair of QuantizeLinear and DequantizeLinear rounds, as TFLite's files end."""
    to_real = value.producer()
    codes = to_real.inputs[0] if to_real and to_real.op_type == "DequantizeLinear" else None
    to_codes = None if codes is None else codes.producer()
    if to_codes is None or to_codes.op_type != "QuantizeLinear" or to_codes.inputs[0] is None:
        return value
    return to_codes.inputs[0]


def per_output(labels: Labels, outputs: int) -> list[Array | None]:
    """Returns labels or None for each output; labels alone belong to the first one.

    Raises:
        DataError: There are labels for another number of outputs.
    """
    if labels is None or isinstance(labels, np.ndarray):
        return [labels, *[None] * (outputs - 1)]
    if len(labels) != outputs:
        raise DataError(f"the model has {outputs} outputs, and there are labels for {len(labels)}")
    return list(labels)


def fit_labels(head: Head, labels: Array, target: Array) -> tuple[Head, Array, int | None]:
    """Brings labels into the shape and type that the loss takes, and finds what the output is.

    Logits are known as such by their labels: a whole number for each position with classes.

    Args:
        head: The output, by its operator.
        labels: Of it.
        target: The teacher's answers, of the output's shape.

    Returns:
        The output, the labels, and for sequences of tokens the class of the blank.

    Raises:
        DataError: The labels do not fit the output.
    """
    classes = target.shape[head.axis] if target.ndim > 1 else 1
    positions = list(target.shape)
    del positions[head.axis]
    if head.kind != "sigmoid" and np.issubdtype(labels.dtype, np.integer) and classes > 1:
        is_sequence = target.ndim == 3 and labels.ndim == 2 and labels.shape[1] < positions[1]
        if list(labels.shape) == positions or (is_sequence and head.axis in (-1, 2)):
            _check_classes(head, labels, classes)
            blank = find_blank(labels, classes) if is_sequence else None
            return replace(head, kind="softmax"), labels.astype(np.int32), blank
    name = head.value.name
    if head.kind == "softmax" or labels.size != target.size:
        wanted = positions if head.kind == "softmax" else list(target.shape)
        raise DataError(
            f"labels of output {name!r} must have the shape {wanted}"
            f"{' and be whole numbers' if head.kind == 'softmax' else ''}; got "
            f"{list(labels.shape)}, {labels.dtype}"
        )
    return head, labels.reshape(target.shape).astype(np.float32), None


def _check_classes(head: Head, labels: Array, classes: int) -> None:
    lowest = 0 if labels.ndim == 1 else PADDING
    outside = labels[(labels < lowest) | (labels >= classes)]
    if outside.size:
        raise DataError(
            f"{outside.size} labels of output {head.value.name!r} are outside 0 to {classes - 1}, "
            f"such as {outside.flat[0]}"
        )
