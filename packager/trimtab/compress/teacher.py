"""The original model's answers, which compressed ones are trained towards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.engine.heads import heads
from trimtab.evaluate.data import Column
from trimtab.graph.run import GraphRunner
from trimtab.progress import track

Array = NDArray[Any]

_BATCH = 256


class Teacher:
    """Answers batches of samples, up to where losses are taken.

    Args:
        model: The graph; it is left as it is.
        features: Names of values to answer with as well, before the outputs' answers.

    Raises:
        ModelError: ONNX Runtime refuses the graph.
    """

    def __init__(self, model: ir.Model, features: Sequence[str] = ()) -> None:
        copy = model.clone()
        values = {value.name: value for node in copy.graph for value in node.outputs}
        answers = [values[name] for name in features] + [head.value for head in heads(copy)]
        copy.graph.outputs[:] = answers
        self._runner = GraphRunner(copy)

    def __call__(self, samples: Sequence[Array]) -> list[Array]:
        """Returns one array per answer, samples along axis 0.

        For an output that is logits where the graph ends in a Softmax or Sigmoid, else the output.

        Args:
            samples: One array per input, samples along axis 0.
        """
        return self._runner.run(samples)


def teacher_answers(teacher: ir.Model, samples: Sequence[Column]) -> list[Array]:
    """Asks a teacher about all samples, which are read batch by batch; see `Teacher`."""
    ask, total = Teacher(teacher), len(samples[0])
    starts = track(range(0, total, _BATCH), "original's answers", -(-total // _BATCH))
    pieces = [ask([np.asarray(column[at : at + _BATCH]) for column in samples]) for at in starts]
    return [np.concatenate(parts) for parts in zip(*pieces, strict=True)]
