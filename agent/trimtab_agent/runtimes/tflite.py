"""TFLite files, run by LiteRT or by the older tflite-runtime: the interface is the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from trimtab_agent.contract.manifest import TensorSpec
from trimtab_agent.errors import DeviceError, FormatError
from trimtab_agent.runtimes.base import Foreign, Option, check_arrays, check_options

if TYPE_CHECKING:
    from trimtab_agent.runtimes.base import Array


def open_session(
    module: ModuleType,
    version: str,
    path: Path,
    *,
    threads: int,
    options: Mapping[str, Option],
) -> TFLiteSession:
    """Loads a `.tflite` file. It takes no options.

    Raises:
        CallerError: There are options.
        FormatError: The file is no model, or has an operator that this build lacks.
    """
    check_options("tflite", options)
    try:
        interpreter = module.Interpreter(model_path=str(path), num_threads=threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise FormatError(f"{path} is no model that tflite {version} can load: {error}") from error
    return TFLiteSession(interpreter, version)


class TFLiteSession:
    """A TFLite interpreter as a `Session`.

    The order of inputs and outputs is that of the file's main subgraph. Names are those of the
    file's signature where it has exactly one, else those of the tensors.
    """

    def __init__(self, interpreter: Foreign, version: str) -> None:
        self._interpreter = interpreter
        details = interpreter.get_input_details()
        results = interpreter.get_output_details()
        input_names, output_names = _signature_names(interpreter)
        self._input_indices: list[int] = [detail["index"] for detail in details]
        self._output_indices: list[int] = [detail["index"] for detail in results]
        self._shapes = [tuple(int(size) for size in detail["shape"]) for detail in details]
        self.inputs = tuple(_spec(detail, input_names) for detail in details)
        self.outputs = tuple(_spec(detail, output_names) for detail in results)
        self.provider = _provider(interpreter)
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


def _provider(interpreter: Foreign) -> str | None:
    """Returns `XNNPACK` if that delegate took nodes, `builtin` if none did, None if unknown.

    Builds for CPUs have XNNPACK as their only default delegate, and this session adds none, so
    a node that a delegate took is XNNPACK's. The list of nodes has no public accessor.
    """
    list_nodes = getattr(interpreter, "_get_ops_details", None)
    if list_nodes is None:
        return None
    taken = any(node["op_name"] == "DELEGATE" for node in list_nodes())
    return "XNNPACK" if taken else "builtin"
