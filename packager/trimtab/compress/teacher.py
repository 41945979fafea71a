"""The original model's answers, which compressed ones are trained towards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.engine.losses import heads
from trimtab.graph.run import run_graph

Array = NDArray[Any]


def teacher_answers(teacher: ir.Model, samples: Sequence[Array]) -> list[Array]:
    """Runs the teacher on samples, up to where losses are taken.

    Args:
        teacher: The graph; it is left as it is.
        samples: One array per input, samples along axis 0.

    Returns:
        One array per output, samples along axis 0: logits where it ends in a Softmax or Sigmoid,
        else the output itself.

    Raises:
        ModelError: ONNX Runtime refuses the graph.
    """
    copy = teacher.clone()
    for index, head in enumerate(heads(copy)):
        copy.graph.outputs[index] = head.value
    return run_graph(copy, samples)
