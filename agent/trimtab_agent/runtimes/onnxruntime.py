"""ONNX files, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from trimtab_agent.contract.manifest import TensorSpec
from trimtab_agent.errors import DeviceError, FormatError, RuntimeUnavailableError
from trimtab_agent.runtimes.base import Foreign, Option, check_arrays, check_options

if TYPE_CHECKING:
    from trimtab_agent.runtimes.base import Array

_EXACT_ACTIVATIONS = "session.qdq_matmulnbits_accuracy_level"
"""Left alone, ONNX Runtime rounds the activations of matrix products with integer weights to 8 bits
(level 4), so the same file would give other outputs than the graph says; 1 is float32."""
_PROVIDER = "provider"

# ONNX Runtime accepts any configuration key and ignores those it does not know, so the ones that
# are passed on are listed here.
_OPTIONS = {
    _PROVIDER: "execution provider, CPUExecutionProvider when absent",
    "session.disable_cpu_ep_fallback": "1 makes it an error that nodes fall back to the CPU",
    "session.intra_op.allow_spinning": "0 lets idle threads sleep, which saves energy",
}

# The types of the ONNX specification by numpy's names; ONNX Runtime prints the left side.
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    **{f"tensor({name})": name for name in ("float16", "bool")},
    **{
        f"tensor({sign}int{bits})": f"{sign}int{bits}"
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
}


def open_session(
    module: ModuleType,
    version: str,
    path: Path,
    *,
    threads: int,
    options: Mapping[str, Option],
) -> OnnxRuntimeSession:
    """Loads an `.onnx` file.

    Raises:
        CallerError: An option is unknown.
        FormatError: The file is no model, or holds types that numpy has not.
        RuntimeUnavailableError: The provider is not on this machine, or declined.
    """
    check_options("onnxruntime", options, _OPTIONS)
    provider = str(options.get(_PROVIDER, "CPUExecutionProvider"))
    if provider not in module.get_available_providers():
        raise RuntimeUnavailableError(
            f"onnxruntime {version} here has no provider {provider!r}: take one of "
            f"{', '.join(module.get_available_providers())}"
        )
    try:
        session = module.InferenceSession(
            str(path),
            sess_options=_session_options(module, threads, options),
            providers=[provider],
        )
    except Exception as error:  # its exceptions have no common base but Exception
        raise FormatError(
            f"{path} is no model that onnxruntime {version} can load: {error}"
        ) from error
    if session.get_providers()[0] != provider:
        raise RuntimeUnavailableError(
            f"onnxruntime {version} could not start {provider} and took "
            f"{session.get_providers()[0]}: check the provider's drivers and libraries"
        )
    return OnnxRuntimeSession(session, version, path)


class OnnxRuntimeSession:
    """An ONNX Runtime session as a `Session`."""

    def __init__(self, session: Foreign, version: str, path: Path) -> None:
        self._session = session
        self.inputs = tuple(_spec(node, path) for node in session.get_inputs())
        self.outputs = tuple(_spec(node, path) for node in session.get_outputs())
        self.provider: str | None = session.get_providers()[0]
        self.version = version
        self._output_names = [spec.name for spec in self.outputs]

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Runs one inference; see `Session.run`."""
        check_arrays(self.inputs, arrays)
        feeds = {spec.name: array for spec, array in zip(self.inputs, arrays, strict=True)}
        try:
            outputs: list[Array] = self._session.run(self._output_names, feeds)
        except Exception as error:  # its exceptions have no common base but Exception
            raise DeviceError(f"onnxruntime failed to run the model: {error}") from error
        return outputs


def _session_options(module: ModuleType, threads: int, options: Mapping[str, Option]) -> Foreign:
    """Returns ONNX Runtime's options for a session of `threads` threads."""
    session_options = module.SessionOptions()
    session_options.intra_op_num_threads = threads
    session_options.inter_op_num_threads = 1
    session_options.log_severity_level = (
        3  # errors only: warnings of every load fill a device's log
    )
    for name, value in {_EXACT_ACTIVATIONS: "1", **options}.items():
        if name != _PROVIDER:
            session_options.add_session_config_entry(name, _text(value))
    return session_options


def _text(value: Option) -> str:
    """Returns an option's value as ONNX Runtime wants it: booleans are `0` and `1`."""
    return str(int(value)) if isinstance(value, bool) else str(value)


def _spec(node: Foreign, path: Path) -> TensorSpec:
    """Returns the spec of one input or output; a symbolic dimension is a string or None there."""
    if node.type not in _DTYPES:
        raise FormatError(f"{path}: {node.name} has the type {node.type}, which numpy has not")
    return TensorSpec(
        name=node.name,
        shape=tuple(size if isinstance(size, int) else None for size in node.shape),
        dtype=_DTYPES[node.type],
    )
