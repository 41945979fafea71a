"""Batch norms that were folded into convolutions, brought back for training and folded again.

A graph for inference has none, and trains worse for it: gradients are badly scaled, and after
channels were removed nothing re-centres what is left. Here every convolution gets a batch norm that
changes nothing at first: its statistics are gathered from data, its scale and offset undo them. It
is trained with the statistics of batches (Ioffe and Szegedy 2015, arXiv:1502.03167, section 3.1),
checked with their running means, and folded into the convolution, exactly, at the end.

The graph itself never holds a batch norm: they hook onto the module's values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.engine.layout import Laid
from trimtab.engine.module import GraphModule
from trimtab.graph.access import add_initializer, constant, held, set_initializer

Array = NDArray[Any]
Mode = Literal["gather", "batch", "running"]

MIN_BATCH = 8
"""Statistics of fewer samples are noise, and those of one may be zero."""

_EPSILON = 1e-3
_MOMENTUM = 0.9
"""Of the running statistics. Retraining takes a few hundred steps: Keras' 0.99 would still
remember the start."""


class BatchNorms:
    """The batch norms of a module.

    Args:
        module: A trainable module; this hooks onto its values.
        outputs: Values to leave alone, because the loss works on them.
    """

    def __init__(self, module: GraphModule, outputs: Sequence[ir.Value] = ()) -> None:
        self._module = module
        self._mode: Mode = "running"
        self._gathered: list[Any] = []
        self._norms = [
            _Norm(node)
            for node in module.model.graph
            if _takes_norm(node) and node.outputs[0] not in outputs
        ]
        for norm in self._norms:
            module.after[norm.node.outputs[0]] = self._hook(norm)

    def __len__(self) -> int:
        return len(self._norms)

    @property
    def trainable(self) -> list[Any]:
        """Scales and offsets, `keras.Variable`s."""
        return [variable for norm in self._norms for variable in (norm.scale, norm.offset)]

    @property
    def running(self) -> list[Any]:
        """Running means and variances, which steps of training update."""
        return [variable for norm in self._norms for variable in (norm.mean, norm.variance)]

    @contextmanager
    def mode(self, mode: Mode) -> Iterator[None]:
        """Sets what the norms do in what is traced inside: they normalise by the batch, or not."""
        before, self._mode = self._mode, mode
        try:
            yield
        finally:
            self._mode = before

    def start(self, batches: Iterator[Sequence[Array]]) -> None:
        """Gathers statistics from batches of inputs, and sets the norms to change nothing."""
        import tensorflow as tf

        def gather(*inputs: Any) -> Any:
            with self.mode("gather"):
                self._gathered = []
                self._module(inputs)
                return self._gathered

        gathering = tf.function(gather, reduce_retracing=True, autograph=False)
        moments = [
            [np.stack([mean.numpy(), square.numpy()]) for mean, square in gathering(*batch)]
            for batch in ([tf.constant(array) for array in batch] for batch in batches)
        ]
        for norm, found in zip(self._norms, zip(*moments, strict=True), strict=True):
            mean, square = np.mean(found, axis=0)
            norm.start(mean, np.maximum(square - np.square(mean), 0))

    def fold(self) -> None:
        """Multiplies the norms into the graph's convolutions, whose weights were stored before."""
        for norm in self._norms:
            norm.fold()

    def _hook(self, norm: _Norm) -> Any:
        def hook(value: Laid) -> Laid:
            if self._mode == "gather":
                self._gathered.append(_moments(value.tensor))
                return value
            return Laid(norm(value.tensor, batch=self._mode == "batch"), value.axes)

        return hook


class _Norm:
    """One batch norm behind a convolution."""

    def __init__(self, node: ir.Node) -> None:
        import keras
        import tensorflow as tf

        kernel = constant(node.inputs[1])
        assert kernel is not None
        self.node, channels = node, kernel.shape[0]
        self.scale, self.offset = (keras.Variable(np.ones(channels, np.float32)) for _ in range(2))
        self.mean, self.variance = (tf.Variable(np.ones(channels, np.float32)) for _ in range(2))

    def start(self, mean: Array, variance: Array) -> None:
        self.mean.assign(mean)
        self.variance.assign(variance)
        self.offset.assign(mean)
        self.scale.assign(np.sqrt(variance + _EPSILON))

    def __call__(self, tensor: Any, *, batch: bool) -> Any:
        import tensorflow as tf

        fused = tf.compat.v1.nn.fused_batch_norm
        scale, offset = self.scale.value, self.offset.value
        if not batch:
            mean, variance = self.mean, self.variance
            return fused(tensor, scale, offset, mean, variance, _EPSILON, is_training=False)[0]
        result, mean, variance = fused(tensor, scale, offset, epsilon=_EPSILON, is_training=True)
        for running, present in ((self.mean, mean), (self.variance, variance)):
            running.assign_sub((1 - _MOMENTUM) * (running - present))
        return result

    def fold(self) -> None:
        kernel, bias = self.node.inputs[1], self.node.inputs[2:]
        weights = constant(kernel)
        assert kernel is not None
        assert weights is not None
        factor = self.scale.numpy() / np.sqrt(self.variance.numpy() + _EPSILON)
        set_initializer(kernel, weights * factor.reshape(-1, *[1] * (weights.ndim - 1)))
        old = constant(bias[0]) if bias else None
        shift = (0 if old is None else old) - self.mean.numpy()
        _set_bias(self.node, (shift * factor + self.offset.numpy()).astype(np.float32))


def _takes_norm(node: ir.Node) -> bool:
    """Whether a norm can be folded into a convolution without touching anything else."""
    if node.op_type != "Conv":
        return False
    kernel, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    array = constant(kernel)
    if kernel is None or array is None or array.ndim > 4 or array.dtype != np.float32:
        return False
    if bias is not None and (constant(bias) is None or held(bias) is not None):
        return False
    # A scale for each channel keeps zeros, and would split clusters.
    return len(kernel.uses()) == 1 and held(kernel) in (None, "zeros")


def _moments(tensor: Any) -> tuple[Any, Any]:
    import tensorflow as tf

    axes = list(range(len(tensor.shape) - 1))
    return tf.reduce_mean(tensor, axes), tf.reduce_mean(tf.square(tensor), axes)


def _set_bias(node: ir.Node, array: Array) -> None:
    """Sets a convolution's bias; one that others use, or that is missing, is made anew."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and len(bias.uses()) == 1:
        set_initializer(bias, array)
        return
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    new = add_initializer(graph, f"{node.inputs[1] and node.inputs[1].name}.bias", array)
    if bias is None and len(node.inputs) < 3:
        node.resize_inputs(3)
    node.replace_input_with(2, new)
