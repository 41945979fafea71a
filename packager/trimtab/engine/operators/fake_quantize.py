"""Rounding to a grid whose step size is trained (Esser et al. 2020, arXiv:1902.08153).

What is inside of the range passes its gradient on, as if it were not rounded (Bengio et al. 2013).
The step size gets, of each number `x`, the derivative of `step * clip(round(x / step), low, high)`
with the rounding taken for a constant offset (their equation 3): `round(x / step) - x / step`
inside of the range, and outside of it the code that the number is cut off at.
"""

from __future__ import annotations

from math import sqrt
from typing import Any


def fake_quantize(data: Any, step: Any, low: Any, high: Any, *, damping: Any = 1.0) -> Any:
    """Returns `step * clip(round(data / step), low, high)`, float32, of the data's shape.

    Args:
        data: Float32, any shape.
        step: The step size, above 0: a scalar, or of the data's rank with axes of size 1.
        low: The lowest code less the zero point; broadcasts to the data.
        high: The highest code less the zero point.
        damping: A factor on the gradient of the step size; see `damping`.
    """
    import tensorflow as tf

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def rounded(data: Any, step: Any) -> Any:
        steps = data / step
        codes = tf.clip_by_value(tf.round(steps), low, high)

        def gradients(upstream: Any) -> tuple[Any, Any]:
            inside = tf.logical_and(steps >= low, steps <= high)
            slope = tf.where(inside, codes - steps, codes)
            return tf.where(inside, upstream, 0.0), _summed(upstream * slope, step) * damping

        return codes * step, gradients

    return rounded(data, step)


def damping(elements: Any, highest: int) -> Any:
    """Returns `1 / sqrt(elements * highest)` (Esser et al. 2020, section 2.2).

    Without it a step size, whose gradient is a sum over all that it rounds, would change far more
    in proportion to itself than weights do.

    Args:
        elements: How many numbers share the step size; of activations, in one sample.
        highest: The number of positive codes.
    """
    import tensorflow as tf

    if isinstance(elements, float):
        return 1 / sqrt(elements * highest)
    return tf.math.rsqrt(tf.cast(elements, tf.float32) * highest)


def _summed(slopes: Any, step: Any) -> Any:
    """Sums over all that shares a step size."""
    import tensorflow as tf

    if len(step.shape) == 0:
        return tf.reduce_sum(slopes)
    shared = [axis for axis, size in enumerate(step.shape) if size == 1]
    return tf.reduce_sum(slopes, shared, keepdims=True)
