"""Models that are known to bear few bits badly."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from support.graphs import GraphBuilder
from trimtab.graph.access import set_initializer


def touchy(offset: float = 40.0) -> ir.Model:
    """Its last layer tells classes apart by differences that are small beside its weights.

    All weights of an input of the last layer share an offset, which moves all classes alike; codes
    that reach to the offset are too coarse for the differences.
    """
    b = GraphBuilder(32)
    x = b.op("Relu", b.dense("x", 32, 64))
    model = b.build(b.dense(x, 64, 5))
    last = [value for value in model.graph.initializers.values() if value.shape == [64, 5]][-1]
    assert last.const_value is not None
    array = np.array(last.const_value.numpy())
    set_initializer(last, (array + offset * np.sign(array[:, :1])).astype(np.float32))
    return model
