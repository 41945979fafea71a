"""Values that know how their physical axes are permuted, so that no transpose runs for nothing.

ONNX convolutions are channels-first; TensorFlow's CPU and TFLite kernels are channels-last. A
`Laid` value holds a tensor in whatever order its maker left it, with the logical (ONNX) axis of
each physical axis. A Transpose, an Unsqueeze or a Squeeze only changes that list. Data moves
only where an operator needs an order that it does not have: a Keras model that went to ONNX
with a Transpose in front of every convolution comes back without any.

A 1-D convolution is a 2-D one of height 1: its values carry a physical axis of size 1 that no
logical axis stands for (`None` in the list), from one convolution to the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Axes = tuple[int | None, ...]


@dataclass(frozen=True)
class Laid:
    """A value of the graph.

    Attributes:
        tensor: A TensorFlow tensor, a variable's value, or a numpy array if it is constant.
        axes: The logical axis of each physical axis; None is an extra axis of size 1.
    """

    tensor: Any
    axes: Axes

    @property
    def rank(self) -> int:
        """Number of logical axes."""
        return sum(axis is not None for axis in self.axes)

    @property
    def is_constant(self) -> bool:
        """Whether the value is known while the graph is built."""
        return isinstance(self.tensor, np.ndarray)

    def physical(self, logical: int) -> int:
        """Returns the physical position of a logical axis; negative ones count from the end."""
        return self.axes.index(logical % self.rank)

    def dim(self, logical: int) -> int | None:
        """Returns the static size of a logical axis, or None if it is free."""
        size = self.tensor.shape[self.physical(logical)]
        return None if size is None else int(size)


def natural(rank: int) -> Axes:
    """Returns the order of ONNX itself."""
    return tuple(range(rank))


def laid(tensor: Any) -> Laid:
    """Returns a tensor that is in ONNX's own order."""
    return Laid(tensor, natural(len(tensor.shape)))


def channels_last(rank: int) -> Axes:
    """Returns the order that convolutions and pooling run in.

    `[batch, height, width, channels]` for rank 4, `[batch, (1), width, channels]` for rank 3.

    Raises:
        ValueError: The rank is neither 3 nor 4.
    """
    if rank == 3:
        return (0, None, 2, 1)
    if rank == 4:
        return (0, 2, 3, 1)
    raise ValueError(f"convolutions and pooling take 3 or 4 dimensions, not {rank}")


def arrange(value: Laid, axes: Axes) -> Any:
    """Returns the tensor of `value` in the physical order `axes`, moving data only if needed.

    Args:
        value: The value.
        axes: The wished order: each logical axis once, and any number of None.
    """
    if value.axes == axes:
        return value.tensor
    present = [axis for axis in value.axes if axis is not None]
    wished = [axis for axis in axes if axis is not None]
    tensor = value.tensor
    if None in value.axes:
        tensor = _squeeze(tensor, [i for i, axis in enumerate(value.axes) if axis is None])
    if present != wished:
        tensor = _transpose(tensor, [present.index(axis) for axis in wished])
    for position, axis in enumerate(axes):
        if axis is None:
            tensor = _expand(tensor, position)
    return tensor


def onnx_order(value: Laid) -> Any:
    """Returns the tensor of `value` in ONNX's own order."""
    return arrange(value, natural(value.rank))


def broadcast(values: Sequence[Laid]) -> tuple[list[Any], Axes]:
    """Brings the operands of an element-wise operator into one physical order.

    ONNX aligns shapes at the last logical axis. The order of the first operand of the highest
    rank that is not constant wins: constants are the cheap ones to move.

    Returns:
        The tensors, and the order that they and the result have.
    """
    rank = max(value.rank for value in values)
    leader = min(
        (value for value in values if value.rank == rank), key=lambda value: value.is_constant
    )
    return [_align(value, leader.axes, rank) for value in values], leader.axes


def _align(value: Laid, axes: Axes, rank: int) -> Any:
    missing = rank - value.rank
    if value.rank == 0:
        return arrange(value, ())
    if missing:
        moved = tuple(None if axis is None else axis + missing for axis in value.axes)
        tensor = value.tensor
        for _ in range(missing):
            tensor = _expand(tensor, 0)
        value = Laid(tensor, (*range(missing), *moved))
    return arrange(value, axes)


def _transpose(tensor: Any, order: list[int]) -> Any:
    if isinstance(tensor, np.ndarray):
        return np.transpose(tensor, order)
    import tensorflow as tf

    return tf.transpose(tensor, order)


def _squeeze(tensor: Any, axes: list[int]) -> Any:
    if isinstance(tensor, np.ndarray):
        return np.squeeze(tensor, tuple(axes))
    import tensorflow as tf

    return tf.squeeze(tensor, axes)


def _expand(tensor: Any, axis: int) -> Any:
    if isinstance(tensor, np.ndarray):
        return np.expand_dims(tensor, axis)
    import tensorflow as tf

    return tf.expand_dims(tensor, axis)
