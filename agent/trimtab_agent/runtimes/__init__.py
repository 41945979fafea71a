"""The runtimes that execute a model, behind one port.

    session = load("tflite", Path("model.tflite"), threads=2)
    outputs = session.run([np.zeros((1, 128, 6), np.float32)])

Importing this package imports neither numpy nor a runtime: the agent stays small, and only the
child process that runs a model pays for them.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from trimtab_agent.contract.messages import RuntimeInfo
from trimtab_agent.errors import CallerError, FormatError, RuntimeUnavailableError
from trimtab_agent.runtimes.base import Option, Session, run_samples

__all__ = ["Option", "Session", "available", "import_runtime", "load", "run_samples"]


class _Candidate(NamedTuple):
    """A distribution that can serve as a runtime: what to import, and what pip calls it."""

    module: str
    distribution: str


# In order of preference. TensorFlow is the last resort: it loads .tflite files too, and weighs a
# hundred times as much.
_CANDIDATES: dict[str, tuple[_Candidate, ...]] = {
    "tflite": (
        _Candidate("ai_edge_litert.interpreter", "ai-edge-litert"),
        _Candidate("tflite_runtime.interpreter", "tflite-runtime"),
        _Candidate("tensorflow.lite.python.interpreter", "tensorflow"),
        _Candidate("tensorflow.lite.python.interpreter", "tensorflow-cpu"),
    ),
    "onnxruntime": (
        _Candidate("onnxruntime", "onnxruntime"),
        _Candidate("onnxruntime", "onnxruntime-gpu"),
        _Candidate("onnxruntime", "onnxruntime-qnn"),
    ),
    "openvino": (_Candidate("openvino", "openvino"),),
}


def available() -> dict[str, RuntimeInfo]:
    """Returns the runtimes that are installed, by their name in a manifest.

    Nothing is imported, so a runtime whose libraries do not fit this system is listed too;
    `load` finds out.
    """
    return {
        name: RuntimeInfo(distribution=found.distribution, version=_version(found) or "")
        for name in _CANDIDATES
        if (found := _installed(name)) is not None
    }


def import_runtime(name: str) -> tuple[ModuleType, str]:
    """Imports a runtime without loading a model, so that its cost can be told apart.

    Args:
        name: The runtime, as in a manifest.

    Returns:
        The module to work with, and the runtime's version.

    Raises:
        CallerError: There is no runtime of this name.
        RuntimeUnavailableError: It is not installed here, or does not import.
    """
    found = _installed(name)
    if found is None:
        raise RuntimeUnavailableError(
            f"runtime {name!r} is not installed: pip install 'trimtab-agent[{name}]'"
        )
    try:
        return importlib.import_module(found.module), _version(found) or ""
    except (ImportError, OSError) as error:  # OSError: a shared library that does not load
        raise RuntimeUnavailableError(
            f"runtime {name!r} is installed ({found.distribution} {_version(found)}) but does "
            f"not import: {error}; reinstall it for this system and Python"
        ) from error


def load(
    name: str,
    path: Path,
    *,
    threads: int = 1,
    options: Mapping[str, Option] | None = None,
    cache_dir: Path | None = None,
) -> Session:
    """Loads a model file.

    Args:
        name: The runtime: `tflite`, `onnxruntime` or `openvino`.
        path: The model file; for OpenVINO the `.xml`, with its `.bin` beside it.
        threads: Threads for one inference, at least 1.
        options: Session options by the runtime's own names, those of
            `contract/session_options.py`; an unknown one is an error.
        cache_dir: Where an accelerator's compiled form of this file is kept, such as TensorRT's
            engine; made when it is needed. None to compile at every load.

    Raises:
        CallerError: The name, the thread count or an option is not usable.
        FormatError: The file is missing, or is no model that this runtime can load.
        RuntimeUnavailableError: The runtime is not on this machine, or cannot run the file where
            `options` want it; it never falls back to the CPU (docs/decisions/0013).
        StorageError: `cache_dir` cannot be made.
    """
    module, version = import_runtime(name)
    if threads < 1:
        raise CallerError(f"threads must be at least 1, got {threads}")
    if not path.is_file():
        raise FormatError(f"model {path} is not a file")
    adapter = importlib.import_module(f"trimtab_agent.runtimes.{name}")
    session: Session = adapter.open_session(
        module, version, path, threads=threads, options=dict(options or {}), cache_dir=cache_dir
    )
    return session


def _installed(name: str) -> _Candidate | None:
    """Returns the first candidate that is installed, or None."""
    if name not in _CANDIDATES:
        raise CallerError(f"runtime {name!r} is unknown: take one of {', '.join(_CANDIDATES)}")
    for candidate in _CANDIDATES[name]:
        package = candidate.module.partition(".")[0]
        if _version(candidate) is not None and importlib.util.find_spec(package) is not None:
            return candidate
    return None


def _version(candidate: _Candidate) -> str | None:
    """Returns the version that the distribution's metadata gives, or None."""
    # Here and not above: it loads `email` and `zipfile`, 2 MB, and the agent needs this package's
    # names for as long as it runs.
    from importlib import metadata

    try:
        return metadata.version(candidate.distribution)
    except metadata.PackageNotFoundError:
        return None
