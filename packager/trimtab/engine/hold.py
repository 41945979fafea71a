"""What training must keep of weights: their zeros, or which of them are equal.

A technique marks an initializer with `trimtab.graph.access.hold`. Its gradient is then cut down to
what the mark allows, before the optimizer sees it:

* `zeros`: what is zero gets no gradient (the fixed masks of Han et al. 2015, "Learning both Weights
  and Connections", section 3.3).
* `clusters`: what is equal gets the sum of its gradients, which is the gradient of the shared value
  (Han et al. 2016, "Deep Compression", section 3.3); what is zero gets none. The mark
  `model_clusters` says that values are shared with all other tensors that carry it.

Optimizers look at single elements, so that equal weights with equal gradients stay equal, and one
that adapts its rate (Adam) adapts it to the shared value. Only the last bit may differ, where
kernels treat the end of an array in another way: after each step all take the value of the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from trimtab.engine.module import GraphModule
from trimtab.graph.access import held


class Holding:
    """Keeps what is marked in the weights of a module.

    Args:
        module: A trainable module; its variables' present values say what is kept.
    """

    def __init__(self, module: GraphModule) -> None:
        marked: dict[str, list[int]] = {}
        for index, name in enumerate(module.stored):
            kind = held(module.model.graph.initializers[name])
            if kind is not None:
                marked.setdefault(kind, []).append(index)
        variables = module.variables
        self._zeros = {i: _nonzero(variables[i]) for i in marked.get("zeros", ())}
        groups = [[i] for i in marked.get("clusters", ())]
        if "model_clusters" in marked:
            groups.append(marked["model_clusters"])
        self._clusters = [(group, _Clusters([variables[i] for i in group])) for group in groups]

    def gradients(self, gradients: Sequence[Any]) -> list[Any]:
        """Returns the gradients that the weights may follow; traceable by TensorFlow.

        Args:
            gradients: One for each variable of the module, in its order, None for those that the
                loss does not reach; what comes behind them is passed on as it is.
        """
        import tensorflow as tf

        allowed = list(gradients)
        for index, kept in self._zeros.items():
            if allowed[index] is not None:
                # A product with a mask would keep a NaN.
                allowed[index] = tf.where(kept, tf.convert_to_tensor(allowed[index]), 0.0)
        for group, clusters in self._clusters:
            own = [allowed[index] for index in group]
            if any(gradient is not None for gradient in own):
                for index, gradient in zip(group, clusters.summed(own), strict=True):
                    allowed[index] = gradient
        return allowed

    def settle(self) -> None:
        """Makes equal to the last bit what must be equal; traceable by TensorFlow."""
        for _, clusters in self._clusters:
            clusters.settle()


def _nonzero(variable: Any) -> Any:
    import tensorflow as tf

    return tf.constant(np.asarray(variable.numpy()) != 0)


class _Clusters:
    """The clusters of some variables; one may reach over several of them."""

    def __init__(self, variables: Sequence[Any]) -> None:
        self._variables = variables
        arrays = [np.asarray(variable.numpy()) for variable in variables]
        flat = np.concatenate([array.ravel() for array in arrays])
        values, first, clusters = np.unique(flat, return_index=True, return_inverse=True)
        self._number, self._first = len(values), first
        self._moves = (values != 0).astype(np.float32)
        ends = np.cumsum([array.size for array in arrays])[:-1]
        parts = np.split(clusters.astype(np.int32), ends)
        self._clusters = [
            part.reshape(array.shape) for part, array in zip(parts, arrays, strict=True)
        ]

    def summed(self, gradients: Sequence[Any]) -> list[Any]:
        import tensorflow as tf

        total: Any = 0.0
        for gradient, clusters in zip(gradients, self._clusters, strict=True):
            if gradient is not None:
                dense = tf.convert_to_tensor(gradient)
                total += tf.math.unsorted_segment_sum(dense, clusters, self._number)
        return [tf.gather(total * self._moves, clusters) for clusters in self._clusters]

    def settle(self) -> None:
        import tensorflow as tf

        flat = [tf.reshape(variable.value, [-1]) for variable in self._variables]
        values = tf.gather(tf.concat(flat, 0), self._first)
        for variable, clusters in zip(self._variables, self._clusters, strict=True):
            variable.assign(tf.gather(values, clusters))
