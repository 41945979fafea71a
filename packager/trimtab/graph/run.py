"""A graph's outputs, by ONNX Runtime: the reference that everything else is compared with."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.errors import ModelError
from trimtab.graph.save import save_beside

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
        # Integer weights must not make ONNX Runtime round the activations: see the agent's runtime.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        with tempfile.TemporaryDirectory(prefix="trimtab-") as folder:
            path, *_ = save_beside(model, Path(folder) / "model.onnx")
            try:
                self._session = ort.InferenceSession(
                    str(path), options, providers=["CPUExecutionProvider"]
                )
            except Exception as error:
                raise ModelError(f"ONNX Runtime refuses the graph: {error}") from error
        self._inputs = [entry.name for entry in self._session.get_inputs()]
        self._shapes = [entry.shape for entry in self._session.get_inputs()]
        self._output_shapes = [entry.shape for entry in self._session.get_outputs()]

    def run(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Runs all samples, in batches where every input has a batch axis that is free.

        Args:
            arrays: One array per graph input, samples along axis 0. An input that has no batch
                axis (a scalar, or a state whose first dimension is fixed and not 1) takes one
                array of its own shape a sample: together `[samples, *shape]`.

        Returns:
            One array per graph output, samples along axis 0; an output without a batch axis comes
            as `[samples, *shape]`.
        """
        # Only a first dimension that is free for every input can be a batch of several.
        free = all(shape and not isinstance(shape[0], int) for shape in self._shapes)
        batch = _BATCH if free else 1
        pieces = []
        for start in range(0, len(arrays[0]), batch):
            part = [
                array[start : start + batch] if _has_batch(shape) else np.asarray(array[start])
                for array, shape in zip(arrays, self._shapes, strict=True)
            ]
            results = self._session.run(None, dict(zip(self._inputs, part, strict=True)))
            samples = min(batch, len(arrays[0]) - start)
            pieces.append(
                [
                    _per_sample(result, shape, samples)
                    for result, shape in zip(results, self._output_shapes, strict=True)
                ]
            )
        return [np.concatenate(parts) for parts in zip(*pieces, strict=True)]


def _has_batch(shape: Sequence[int | str | None]) -> bool:
    return bool(shape) and (not isinstance(shape[0], int) or shape[0] == 1)


def _per_sample(
    result: NDArray[Any], shape: Sequence[int | str | None], samples: int
) -> NDArray[Any]:
    """Gives an output without a batch axis one: it is the same for each sample of the batch."""
    # ONNX Runtime reports an unknown shape as it does that of a scalar: [].
    if result.ndim and (not shape or _has_batch(shape)):
        return result
    return np.broadcast_to(result, (samples, *result.shape))


def run_graph(model: ir.Model, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Runs `model` once on `arrays`; see `GraphRunner.run`."""
    return GraphRunner(model).run(arrays)
