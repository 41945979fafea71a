"""Takes the marks of `engine.float_joins` out of a file again."""

from __future__ import annotations

from typing import Any

import numpy as np

from trimtab.engine.float_joins import MARK
from trimtab.targets.tflite_flatbuffer import contents, operator_name, type_name


def drop_marks(file: Any) -> None:
    """Lets the readers of a mark read what it reads, in place.

    Args:
        file: A `ModelT`.
    """
    for graph in file.subgraphs:
        marks = [operator for operator in graph.operators if _is_mark(file, graph, operator)]
        sources = {mark.outputs[0]: mark.inputs[0] for mark in marks}
        graph.operators = [operator for operator in graph.operators if operator not in marks]
        for operator in graph.operators:
            operator.inputs = [sources.get(number, number) for number in operator.inputs]


def _is_mark(file: Any, graph: Any, operator: Any) -> bool:
    if operator_name(file, operator) != "FLOOR_MOD":
        return False
    divisor = graph.tensors[operator.inputs[1]]
    data = file.buffers[divisor.buffer].data
    if type_name(divisor) != "float32" or data is None:
        return False
    return bool((contents(file, divisor, np.float32) == MARK).all())
