"""A graph's outputs, by ONNX Runtime: the reference that everything else is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.errors import ModelError

_BATCH = 64


class GraphRunner:
    """Runs a float or QDQ graph on the CPU.

    Args:
        model: The graph.

    Raises:
        ModelError: ONNX Runtime refuses the graph.
    """

    def __init__(self, model: ir.Model) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 3
        data = ir.to_proto(model).SerializeToString()
        try:
            self._session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ModelError(f"ONNX Runtime refuses the graph: {error}") from error
        self._inputs = [entry.name for entry in self._session.get_inputs()]
        first = self._session.get_inputs()[0].shape if self._inputs else []
        self._fixed_batch = first[0] if first and isinstance(first[0], int) else None

    def run(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Runs all samples in batches.

        Args:
            arrays: One array per graph input, samples along axis 0.

        Returns:
            One array per graph output, samples along axis 0.
        """
        batch = self._fixed_batch or _BATCH
        pieces = []
        for start in range(0, len(arrays[0]), batch):
            part = [array[start : start + batch] for array in arrays]
            pieces.append(self._session.run(None, dict(zip(self._inputs, part, strict=True))))
        return [np.concatenate(parts) for parts in zip(*pieces, strict=True)]


def run_graph(model: ir.Model, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Runs `model` once on `arrays`; see `GraphRunner.run`."""
    return GraphRunner(model).run(arrays)
