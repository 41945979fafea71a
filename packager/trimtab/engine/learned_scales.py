"""Scales of QuantizeLinear that are trained with the weights: learned step sizes.

Esser et al. 2020, "Learned Step Size Quantization" (arXiv:1902.08153); the gradient of a scale is
in `operators.fake_quantize`. A scale is stored by its logarithm, so that it stays positive, and its
gradient is divided by the scale: one step of plain descent then changes it as theirs does, to first
order, and one of Adam, whose steps have the same size whatever the gradient, changes it by a share
of itself. Zero points stay what they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.engine.layout import Axes, Laid, arrange, natural
from trimtab.graph.access import attribute, constant, set_initializer

LEARNED_KEY = "trimtab.learned"
"""Where a scale says that training may change it."""

_WIDEST = float(np.log(256))
"""How far a logarithm may go from where it began: then all that 8 bits held is one step, or one
step is all that they hold."""

Stored = Mapping[str, tuple[Any, Axes]]


def learn(scale: ir.Value) -> None:
    """Marks the scale of a QuantizeLinear as one to be trained."""
    scale.metadata_props[LEARNED_KEY] = "scale"


def is_learned(scale: ir.Value | None) -> bool:
    """Says whether the scale is marked."""
    return scale is not None and LEARNED_KEY in scale.metadata_props


def highest_code(kind: Any) -> int:
    """Returns the largest code of a weight; the smallest is as far below zero."""
    import ml_dtypes

    return int(ml_dtypes.iinfo(kind).max)  # type: ignore[no-untyped-call]


class LearnedScales:
    """The marked scales of a graph, as variables.

    Args:
        model: The graph; it is not changed until `store` is called.
    """

    def __init__(self, model: ir.Model) -> None:
        self._readers: dict[str, ir.Node] = {}
        for node in model.graph:
            scale = node.inputs[1] if node.op_type == "QuantizeLinear" else None
            if scale is not None and is_learned(scale):
                self._readers.setdefault(str(scale.name), node)
        self._scales = {name: _Scale(node) for name, node in self._readers.items()}

    @property
    def variables(self) -> list[Any]:
        """The logarithms."""
        return [scale.logarithm for scale in self._scales.values()]

    def get(self, name: str | None) -> Laid | None:
        """Returns the present scale of that name, or None if it is not learned."""
        scale = self._scales.get(str(name))
        return None if scale is None else Laid(scale.value(), natural(scale.rank))

    def settle(self, stored: Stored) -> None:
        """Brings scales back to what makes sense; traceable by TensorFlow.

        A weight's largest code is used by its largest element: a larger scale would only be
        coarser, and TFLite's converter, which works the scale out again, would find another.

        Args:
            stored: The module's weights.
        """
        for name, scale in self._scales.items():
            weight = self._readers[name].inputs[0]
            scale.settle(stored.get(str(weight.name)) if weight is not None else None)

    def store(self, graph: ir.Graph) -> None:
        """Writes the present scales into the graph."""
        for name, scale in self._scales.items():
            set_initializer(graph.initializers[name], scale.array())


class _Scale:
    """One scale, or one for each channel."""

    def __init__(self, node: ir.Node) -> None:
        import keras
        import tensorflow as tf

        start = constant(node.inputs[1])
        assert start is not None, "learned scales are initializers"
        self.rank, self._axis = start.ndim, attribute(node, "axis", 1)
        self._start = np.log(start)
        self._zero = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        with tf.init_scope():
            self.logarithm = keras.Variable(self._start)

    def value(self) -> Any:
        """Returns the scale; its gradient becomes a relative one."""
        import tensorflow as tf

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def scale(logarithm: Any) -> Any:
            result = tf.exp(logarithm)
            return result, lambda upstream: upstream / result

        return scale(self.logarithm.value)

    def array(self) -> NDArray[np.float32]:
        import tensorflow as tf

        array: NDArray[np.float32] = tf.exp(self.logarithm.value).numpy()
        return array

    def settle(self, weight: tuple[Any, Axes] | None) -> None:
        import tensorflow as tf

        highest: Any = self._start + _WIDEST
        if weight is not None and self._zero is not None:
            largest = self._largest(*weight) / highest_code(self._zero.dtype)
            highest = tf.minimum(highest, tf.math.log(largest))
        # The lower bound comes last: the logarithm of a channel of zeros has none.
        bounded = tf.maximum(tf.minimum(self.logarithm.value, highest), self._start - _WIDEST)
        self.logarithm.assign(bounded)

    def _largest(self, variable: Any, axes: Axes) -> Any:
        """Returns the largest magnitude that each scale has to cover."""
        import tensorflow as tf

        rank = len(variable.shape)
        sizes = tf.abs(arrange(Laid(variable.value, axes), natural(rank)))
        if int(np.prod(self._start.shape)) == 1:
            return tf.reshape(tf.reduce_max(sizes), self._start.shape)
        return tf.reduce_max(sizes, [i for i in range(rank) if i != self._axis % rank])
