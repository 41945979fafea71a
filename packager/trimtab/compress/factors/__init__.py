"""Low-rank factors in the place of layers.

| method | dense layer | convolution |
|---|---|---|
| `svd` | two products | the kernel to few channels, then 1x1 |
| `spatial` | - | a column, then a row |
| `tucker` | - | 1x1, the kernel between few channels, 1x1 |
| `cp` | - | 1x1, one depthwise kernel for each axis, 1x1 |
| `tensor_train` | a train of small products | - |

Only `svd` takes two more: a table of vectors, which becomes a narrower one with a product behind
it, and the weights that a recurrent layer multiplies its input by. Grouped convolutions are
factorized group by group; a transposed convolution is the adjoint of one, and so are its factors,
in reverse order.

`svd`: Eckart and Young 1936; for convolutions Zhang et al. 2016 (arXiv:1505.06798). `spatial`:
Jaderberg et al. 2014 (arXiv:1405.3866). `tucker`: Kim et al. 2016 (arXiv:1511.06530). `cp`:
Lebedev et al. 2015 (arXiv:1412.6553). `tensor_train`: Novikov et al. 2015 (arXiv:1509.06569).

A method's *ladder* is what it can do to a layer: rungs from the lowest rank to the highest.
"""

from trimtab.compress.factors.base import Method, Rung, Splitter, Stage
from trimtab.compress.factors.kernels import Cp, Tucker
from trimtab.compress.factors.layers import Layer, find_layers
from trimtab.compress.factors.pairs import Spatial, Svd
from trimtab.compress.factors.trains import TensorTrain

SPLITTERS: dict[Method, Splitter] = {
    splitter.name: splitter for splitter in (Svd(), Spatial(), Tucker(), Cp(), TensorTrain())
}

__all__ = ["SPLITTERS", "Layer", "Method", "Rung", "Splitter", "Stage", "find_layers"]
