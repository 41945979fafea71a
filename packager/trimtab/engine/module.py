"""A graph as a callable with variables."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.engine.layout import Axes, Laid, arrange, laid, natural, onnx_order
from trimtab.engine.learned_scales import LearnedScales
from trimtab.engine.registry import Call, Operator, Outputs
from trimtab.engine.supported import check_supported, lookup, trainable_inputs
from trimtab.graph.access import constant, set_initializer
from trimtab.tensorflow_setup import import_tensorflow


class GraphModule:
    """Runs an ONNX graph with TensorFlow operators.

    Args:
        model: The graph; it is not changed until `store` is called.
        trainable: Whether weights become variables; otherwise they are constants, which is what
            the TFLite converter wants.

    Trainable weights are `keras.Variable`s, each stored in the physical order of its first use.

    Raises:
        UnsupportedOperatorError: The engine lacks operators of the graph; all are named.
    """

    def __init__(self, model: ir.Model, *, trainable: bool = False) -> None:
        check_supported(model)
        import_tensorflow()
        self.model = model
        self._trainable = _trainable_names(model) if trainable else frozenset()
        self.after: dict[ir.Value, Callable[[Laid], Laid]] = {}
        """What is done to values once they are computed, before anything reads them."""
        self._stored: dict[str, tuple[Any, Axes]] = {}
        self.scales = LearnedScales(model) if trainable else None
        """Scales that are trained with the weights, where the graph marks some."""
        if trainable:
            self._create_variables()

    @property
    def variables(self) -> list[Any]:
        """The trainable weights, and behind them the scales that are learned."""
        scales = [] if self.scales is None else self.scales.variables
        return [*(variable for variable, _ in self._stored.values()), *scales]

    @property
    def stored(self) -> Mapping[str, tuple[Any, Axes]]:
        """The trainable weights by initializer: the variable, and its physical order of axes."""
        return self._stored

    def __call__(
        self, inputs: Sequence[Any], outputs: Sequence[ir.Value] | None = None
    ) -> list[Any]:
        """Runs the graph.

        Args:
            inputs: One tensor per graph input, in ONNX's order of axes.
            outputs: Values to return; the graph's outputs by default.

        Returns:
            One tensor per wished value, in ONNX's order of axes.
        """
        values: dict[ir.Value, Laid] = {
            value: laid(tensor)
            for value, tensor in zip(self.model.graph.inputs, inputs, strict=True)
        }
        for node in self.model.graph:
            call = Call(
                node,
                tuple(None if v is None else self._read(v, values) for v in node.inputs),
                tuple(None if v is None else self._weight(v) for v in node.inputs),
            )
            for value, result in zip(node.outputs, _apply(call), strict=False):
                if result is not None:
                    values[value] = self.after[value](result) if value in self.after else result
        wished = self.model.graph.outputs if outputs is None else outputs
        return [onnx_order(self._read(value, values)) for value in wished]

    def store(self) -> None:
        """Writes the variables' present values into the graph's initializers."""
        for name, (variable, axes) in self._stored.items():
            value = self.model.graph.initializers[name]
            array = np.asarray(variable.numpy())
            rank = sum(axis is not None for axis in axes)
            set_initializer(value, arrange(Laid(array, axes), natural(rank)))
        if self.scales is not None:
            self.scales.store(self.model.graph)

    def settle(self) -> None:
        """Brings what a step of training has moved too far back; traceable by TensorFlow."""
        if self.scales is not None:
            self.scales.settle(self._stored)

    def _read(self, value: ir.Value, values: dict[ir.Value, Laid]) -> Laid:
        if value in values:
            return values[value]
        if value.name in self._stored:
            variable, axes = self._stored[value.name]
            return Laid(variable.value, axes)
        scale = None if self.scales is None else self.scales.get(value.name)
        if scale is not None:
            return scale
        array = constant(value)
        if array is None:
            raise KeyError(f"value {value.name!r} is used before it is computed")
        return laid(array)

    def _weight(self, value: ir.Value) -> Callable[[Axes], Any] | None:
        if value.name not in self._trainable:
            return None

        def stored(axes: Axes) -> Any:
            if value.name not in self._stored:
                self._stored[str(value.name)] = (_variable(value, axes), axes)
            variable, present = self._stored[str(value.name)]
            return arrange(Laid(variable.value, present), axes)

        return stored

    def _create_variables(self) -> None:
        """Traces the graph once: weights take the order that their operator asks for."""
        import tensorflow as tf

        specs = [_spec(value) for value in self.model.graph.inputs]
        # The variables must outlive the trace, so they are made outside of it. Autograph, which
        # nothing here needs, would wrap our errors in its own.
        with tf.init_scope():
            tf.function(lambda *tensors: self(tensors), autograph=False).get_concrete_function(
                *specs
            )
        for name in sorted(self._trainable - set(self._stored)):
            value = self.model.graph.initializers[name]
            rank = len(value.shape) if value.shape is not None else 0
            self._stored[name] = (_variable(value, natural(rank)), natural(rank))


def run(model: ir.Model, arrays: Sequence[NDArray[Any]], batch: int = 256) -> list[NDArray[Any]]:
    """Runs a graph on samples, batch after batch.

    Args:
        model: The graph.
        arrays: One array per input, samples along axis 0.
        batch: Samples at a time.

    Returns:
        One array per output, samples along axis 0.
    """
    tf = import_tensorflow()
    module = GraphModule(model)
    function = tf.function(lambda *tensors: module(tensors), reduce_retracing=True, autograph=False)
    pieces = []
    for start in range(0, len(arrays[0]), batch):
        outputs = function(*[tf.constant(array[start : start + batch]) for array in arrays])
        pieces.append([output.numpy() for output in outputs])
    return [np.concatenate(parts) for parts in zip(*pieces, strict=True)]


def _apply(call: Call) -> tuple[Laid | None, ...]:
    """Runs one operator; TensorFlow's refusals come out as ours, with the node's name."""
    import tensorflow as tf

    function = lookup(call.node.op_type)
    try:
        outputs = _folded(function, call) if _is_constant(call) else function(call)
    except (tf.errors.OpError, ValueError, TypeError) as error:
        reason = re.sub(r"\{\{.*?\}\} ?|\[Op:.*", "", str(error).strip().splitlines()[0]).strip()
        raise call.unsupported(f"as it is used here ({reason})") from error
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    for index in range(len(call.node.outputs)):
        if call.wants(index) and (index >= len(outputs) or outputs[index] is None):
            raise call.unsupported(f"with its output {index}")
    return outputs


def _is_constant(call: Call) -> bool:
    """Whether all that a node reads is known while the graph is built, and none of it trained."""
    return all(value is None or value.is_constant for value in call.inputs) and not any(
        call.weights
    )


def _folded(function: Operator, call: Call) -> Outputs:
    """Runs an operator now: shapes that were worked out from constants stay constant."""
    import tensorflow as tf

    with tf.init_scope():
        outputs = function(call)
        several = outputs if isinstance(outputs, tuple) else (outputs,)
        return tuple(
            None if value is None else Laid(np.asarray(value.tensor), value.axes)
            for value in several
        )


def _spec(value: ir.Value) -> Any:
    import tensorflow as tf

    shape = [dim if isinstance(dim, int) else None for dim in value.shape or ()]
    dtype = value.dtype.numpy() if value.dtype is not None else np.float32
    return tf.TensorSpec(shape, tf.as_dtype(dtype))


def _variable(value: ir.Value, axes: Axes) -> Any:
    import keras
    import tensorflow as tf

    with tf.init_scope():
        return keras.Variable(arrange(laid(constant(value)), axes))


def _trainable_names(model: ir.Model) -> frozenset[str]:
    """Returns the initializers that training may change: floats at an operator's weights."""
    return frozenset(
        str(value.name)
        for node in model.graph
        for index, value in enumerate(node.inputs)
        if value is not None
        and index in trainable_inputs(node.op_type)
        and (array := constant(value)) is not None
        and array.dtype == np.float32
        and not _is_setting(node, array)
    )


def _is_setting(node: ir.Node, array: NDArray[Any]) -> bool:
    """Whether a constant is part of a formula, and no weight: a factor, or a norm's epsilon.

    Trained, an epsilon falls below zero within a few steps, and its square root is no number.
    """
    read_by = {use.node.op_type for use in node.outputs[0].uses()}
    return array.ndim == 0 or (array.size == 1 and "Sqrt" in read_by)
