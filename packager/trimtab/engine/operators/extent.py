"""Operators that cut off from tensors or add to their borders."""

from __future__ import annotations

from typing import Any

import numpy as np

from trimtab.engine.layout import Laid, natural
from trimtab.engine.operators.gather import known
from trimtab.engine.registry import Call, operator


@operator("Slice")
def slice_(call: Call) -> Laid:
    """From start to end by step; starts and ends may be computed, axes and steps may not."""
    data = call[0]
    starts, ends = _bounds(call, 1, "starts"), _bounds(call, 2, "ends")
    axes = call.integers(3, "axes") or range(len(starts))
    steps = call.integers(4, "steps") or (1,) * len(starts)
    index: list[Any] = [slice(None)] * len(data.axes)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[data.physical(axis)] = slice(_near(start), _near(end), step)
    return Laid(known(data.tensor[tuple(index)]), data.axes)


_FAR = 2**31 - 1
"""Exporters write the largest integer for "to the end"; it does not fit TensorFlow's int32."""


def _bounds(call: Call, index: int, attribute: str) -> list[Any]:
    import tensorflow as tf

    if call.has(index) and not call[index].is_constant:
        return list(tf.unstack(tf.cast(call.tensor(index), tf.int32)))
    given = call.integers(index, attribute)
    if given is None:
        raise call.unsupported(f"without {attribute}")
    return list(given)


def _near(bound: Any) -> Any:
    return None if isinstance(bound, int) and abs(bound) >= _FAR else bound


@operator("Pad")
def pad(call: Call) -> Laid:
    """Adds constant, reflected, repeated or wrapped borders; negative ones cut off."""
    import tensorflow as tf

    data = call[0]
    pads = call.integers(1, "pads")
    if pads is None:
        raise call.unsupported("without pads")
    chosen = call.integers(3, "axes") or natural(data.rank)
    mode = call.attribute("mode", "constant")
    tensor = data.tensor
    fill = call.array(2).item() if call.has(2) else call.attribute("value", 0)
    widths = [(0, 0)] * len(data.axes)
    for index, axis in enumerate(chosen):
        position = data.physical(int(axis or 0))
        before, after = pads[index], pads[index + len(chosen)]
        tensor = _cut(tensor, position, before, after)
        widths[position] = (max(before, 0), max(after, 0))
    if mode in ("edge", "wrap"):
        return Laid(_taken(call, tensor, widths, mode), data.axes)
    return Laid(tf.pad(tensor, widths, mode.upper(), constant_values=fill), data.axes)


def _cut(tensor: Any, position: int, before: int, after: int) -> Any:
    if before >= 0 and after >= 0:
        return tensor
    index: list[Any] = [slice(None)] * len(tensor.shape)
    index[position] = slice(-before if before < 0 else None, after if after < 0 else None)
    return tensor[tuple(index)]


def _taken(call: Call, tensor: Any, widths: list[tuple[int, int]], mode: str) -> Any:
    """Borders that are copies of elements: TensorFlow has no such Pad, but it can gather."""
    import tensorflow as tf

    for axis, (before, after) in enumerate(widths):
        if before or after:
            length = tensor.shape[axis]
            if length is None:
                raise call.unsupported(f"in mode {mode!r} of an axis of free size")
            wished = np.arange(-before, length + after)
            index = wished % length if mode == "wrap" else np.clip(wished, 0, length - 1)
            tensor = tf.gather(tensor, index, axis=axis)
    return tensor
