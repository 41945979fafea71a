"""TFLite files, run by LiteRT, the older tflite-runtime or TensorFlow: the interface is one."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from trimtab_agent.contract.manifest import Quantization, TensorSpec
from trimtab_agent.errors import DeviceError, FormatError
from trimtab_agent.runtimes.base import Foreign, Option, check_arrays, check_options
from trimtab_agent.runtimes.tflite_delegates import DelegateWish

if TYPE_CHECKING:
    from trimtab_agent.runtimes.base import Array


def open_session(
    module: ModuleType,
    version: str,
    path: Path,
    *,
    threads: int,
    options: Mapping[str, Option],
    cache_dir: Path | None,  # noqa: ARG001 - no delegate takes one through Python
) -> TFLiteSession:
    """Loads a `.tflite` file.

    Raises:
        CallerError: An option is unknown or cannot be used.
        FormatError: The file is no model, or has an operator that this build lacks.
        RuntimeUnavailableError: The delegate is not on this machine, declined, or leaves nodes to
            the CPU, which the options do not name.
    """
    check_options("tflite", options)
    wish = DelegateWish.of(options)
    arguments = wish.arguments(module, options)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TensorFlow says that LiteRT will replace it
            interpreter = module.Interpreter(model_path=str(path), num_threads=threads, **arguments)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise FormatError(f"{path} is no model that tflite {version} can load: {error}") from error
    return TFLiteSession(interpreter, version, wish)


class TFLiteSession:
    """A TFLite interpreter as a `Session`.

    The order of inputs and outputs is that of the file's main subgraph. Names are those of the
    file's signature where it has exactly one, else those of the tensors.
    """

    def __init__(self, interpreter: Foreign, version: str, wish: DelegateWish) -> None:
        self._interpreter = interpreter
        details = interpreter.get_input_details()
        results = interpreter.get_output_details()
        input_names, output_names = _signature_names(interpreter)
        self._input_indices: list[int] = [detail["index"] for detail in details]
        self._output_indices: list[int] = [detail["index"] for detail in results]
        self._shapes = [tuple(int(size) for size in detail["shape"]) for detail in details]
        self.inputs = tuple(_spec(detail, input_names) for detail in details)
        self.outputs = tuple(_spec(detail, output_names) for detail in results)
        self.provider = wish.who_ran(interpreter, self._output_indices)
        self.version = version

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Runs one inference; see `Session.run`."""
        check_arrays(self.inputs, arrays)
        try:
            self._resize(arrays)
            for index, array in zip(self._input_indices, arrays, strict=True):
                self._interpreter.set_tensor(index, array)
            self._interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise DeviceError(f"tflite failed to run the model: {error}") from error
        return [self._interpreter.get_tensor(index) for index in self._output_indices]

    def profile(self, arrays: Sequence[Array], runs: int) -> None:  # noqa: ARG002 - the port's
        """Returns None: none of the three Python interpreters shows TFLite's profiler.

        `benchmark_model`, a program of TensorFlow's, has it (`--enable_op_profiling`).
        """
        return

    def _resize(self, arrays: Sequence[Array]) -> None:
        """Makes room for shapes that differ from those of the run before."""
        shapes = [array.shape for array in arrays]
        if shapes == self._shapes:
            return
        for index, shape in zip(self._input_indices, shapes, strict=True):
            self._interpreter.resize_tensor_input(index, shape)
        self._interpreter.allocate_tensors()
        self._shapes = shapes


def _spec(detail: dict[str, Foreign], names: dict[int, str]) -> TensorSpec:
    """Returns the spec of one tensor; -1 in a shape signature stands for a free dimension."""
    import numpy as np

    # A scalar has no signature; an old file has none for any tensor.
    shape = detail["shape_signature"] if len(detail["shape_signature"]) else detail["shape"]
    return TensorSpec(
        name=names.get(detail["index"]) or str(detail["name"]),
        shape=tuple(None if size < 0 else int(size) for size in shape),
        dtype=np.dtype(detail["dtype"]).name,
        quantization=_quantization(detail["quantization_parameters"]),
    )


def _quantization(parameters: dict[str, Foreign]) -> Quantization | None:
    """Returns what a tensor's integers stand for; a tensor without has no scales."""
    scales = tuple(float(scale) for scale in parameters["scales"])
    if not scales:
        return None
    return Quantization(
        scales=scales,
        zero_points=tuple(int(zero) for zero in parameters["zero_points"]),
        axis=int(parameters["quantized_dimension"]) if len(scales) > 1 else None,
    )


def _signature_names(interpreter: Foreign) -> tuple[dict[int, str], dict[int, str]]:
    """Returns the names that the file's only signature gives to its tensors, by tensor index."""
    signatures = list(interpreter.get_signature_list())
    if len(signatures) != 1:
        return {}, {}
    runner = interpreter.get_signature_runner(signatures[0])
    inputs, outputs = (
        {detail["index"]: name for name, detail in details.items()}
        for details in (runner.get_input_details(), runner.get_output_details())
    )
    return inputs, outputs
