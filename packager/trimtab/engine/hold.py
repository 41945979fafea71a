"""What training must keep of weights: their zeros, or which of them are equal.

A technique marks an initializer with `trimtab.graph.access.hold`. After every step of the
optimizer the weight is brought back to what its mark allows:

* `zeros`: what was zero at the start is zero again (the fixed masks of Han et al. 2015, "Learning
  both Weights and Connections", section 3.3).
* `clusters`: what was equal at the start takes the mean of what it became, so that a shared value
  moves as one (Han et al. 2016, "Deep Compression", section 3.3, sums the gradients instead); the
  cluster of zero stays zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from trimtab.engine.module import GraphModule
from trimtab.graph.access import held


class Holding:
    """Projects the held weights of a module.

    Args:
        module: A trainable module; its variables' present values say what is kept.
    """

    def __init__(self, module: GraphModule) -> None:
        self._projections = [
            _PROJECTIONS[kind](variable)
            for name, (variable, _) in module.stored.items()
            if (kind := held(module.model.graph.initializers[name])) is not None
        ]

    def project(self) -> None:
        """Brings every held weight back to what its mark allows; traceable by TensorFlow."""
        for project in self._projections:
            project()


def _keep_zeros(variable: Any) -> Callable[[], None]:
    """Keeps zeros in the variable's own layout, so that a step moves no data for it."""
    import tensorflow as tf

    kept = tf.constant(np.asarray(variable.numpy()) != 0)

    def project() -> None:
        # A product with a mask would leave the sign of a negative number, and keep a NaN.
        variable.assign(tf.where(kept, variable.value, 0.0))

    return project


def _keep_clusters(variable: Any) -> Callable[[], None]:
    """Keeps equal what is equal now; the members of each cluster are counted once, here."""
    import tensorflow as tf

    array = np.asarray(variable.numpy())
    values, indices, counts = np.unique(array, return_inverse=True, return_counts=True)
    indices = indices.reshape(array.shape).astype(np.int32)
    share = np.where(values == 0, 0, 1 / counts).astype(np.float32)

    def project() -> None:
        sums = tf.math.unsorted_segment_sum(variable.value, indices, len(values))
        variable.assign(tf.gather(sums * share, indices))

    return project


_PROJECTIONS: dict[str, Callable[[Any], Callable[[], None]]] = {
    "zeros": _keep_zeros,
    "clusters": _keep_clusters,
}
