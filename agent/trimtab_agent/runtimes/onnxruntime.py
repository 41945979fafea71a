"""ONNX files (`.onnx`, or `.ort` of a minimal build), run by ONNX Runtime."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from trimtab_agent.contract.manifest import TensorSpec
from trimtab_agent.contract.measurement import OperatorTime
from trimtab_agent.durable import storage_errors
from trimtab_agent.errors import DeviceError, FormatError, RuntimeUnavailableError
from trimtab_agent.runtimes import onnxruntime_values as values
from trimtab_agent.runtimes.base import Foreign, Option, check_arrays, check_options
from trimtab_agent.runtimes.onnxruntime_profile import by_provider, read_profile
from trimtab_agent.runtimes.onnxruntime_providers import (
    NO_FALLBACK,
    ProviderWish,
    context_path,
    how_to_allow_cpu,
    provider_options,
    text,
)

if TYPE_CHECKING:
    from trimtab_agent.runtimes.base import Array

_EXACT_ACTIVATIONS = "session.qdq_matmulnbits_accuracy_level"
"""Left alone, ONNX Runtime rounds the activations of matrix products with integer weights to 8 bits
(level 4), so the same file would give other outputs than the graph says; 1 is float32."""

# Classes of ONNX Runtime's exceptions that are about the file and not about the provider.
_FILE_FAULTS = frozenset({"InvalidProtobuf", "InvalidGraph", "NoModel", "NoSuchFile"})


def open_session(
    module: ModuleType,
    version: str,
    path: Path,
    *,
    threads: int,
    options: Mapping[str, Option],
    cache_dir: Path | None,
) -> OnnxRuntimeSession:
    """Loads an `.onnx` or `.ort` file.

    Raises:
        CallerError: An option is unknown or of another type.
        FormatError: The file is no model, or holds types that numpy has not.
        RuntimeUnavailableError: A provider is not on this machine, declined, or leaves nodes to
            the CPU, which the options do not name.
        StorageError: The folder for compiled models cannot be made.
    """
    wish = ProviderWish.of(options)
    wish.check_available(module, version)
    check_options("onnxruntime", options)
    if cache_dir is not None and wish.accelerators:
        cache_dir = cache_dir / f"onnxruntime-{version}"  # another version cannot read its files
        with storage_errors(f"making {cache_dir}"):
            cache_dir.mkdir(parents=True, exist_ok=True)
    return OnnxRuntimeSession(_Opener(module, version, path, threads, options, cache_dir, wish))


@dataclass(frozen=True)
class _Opener:
    """All that it takes to open a file, as often as it is needed."""

    module: ModuleType
    version: str
    path: Path
    threads: int
    options: Mapping[str, Option]
    cache_dir: Path | None
    wish: ProviderWish

    def open(self, profile: str | None = None) -> Foreign:
        """Opens the file.

        Args:
            profile: Beginning of the path of a profile to write; None to write none.
        """
        context = context_path(self.wish, self.cache_dir)
        if context is None:
            return self._create(self.path, profile)
        if context.is_file():
            try:
                return self._create(context, profile)
            except (FormatError, RuntimeUnavailableError):
                context.unlink()  # of another driver, say: compiled anew below
        draft = context.with_suffix(".draft.onnx")
        config = {"ep.context_enable": "1", "ep.context_file_path": str(draft)}
        session = self._create(self.path, profile, {**config, "ep.context_embed_mode": "1"})
        if draft.is_file():
            with storage_errors(f"keeping {context}"):
                draft.replace(context)
        return session

    def _create(
        self, path: Path, profile: str | None, config: Mapping[str, str] | None = None
    ) -> Foreign:
        providers = [
            (name, provider_options(name, self.options, self.path, self.cache_dir))
            for name in self.wish.names
        ]
        try:
            session = self.module.InferenceSession(
                str(path),
                sess_options=self._session_options(profile, config or {}),
                providers=providers,
                enable_fallback=0,  # else a provider that fails is replaced by the CPU
            )
        except Exception as error:  # its exceptions have no common base but Exception
            raise self._explain(error) from error
        session.disable_fallback()
        self.wish.check_started(session, self.version)
        return session

    def _session_options(self, profile: str | None, config: Mapping[str, str]) -> Foreign:
        """Returns ONNX Runtime's options for a session."""
        made = self.module.SessionOptions()
        made.intra_op_num_threads = self.threads
        made.inter_op_num_threads = 1
        made.log_severity_level = 3  # errors only: warnings of every load fill a device's log
        if profile is not None:
            made.enable_profiling = True
            made.profile_file_prefix = profile
        own = {
            name: text(value) for name, value in self.options.items() if name.startswith("session.")
        }
        entries = {_EXACT_ACTIVATIONS: "1", **own, **config}
        entries[NO_FALLBACK] = "0" if self.wish.cpu else "1"
        for name, value in entries.items():
            made.add_session_config_entry(name, value)
        return made

    def _explain(self, error: Exception) -> FormatError | RuntimeUnavailableError:
        """Returns the error that says whose fault a failed load is."""
        if self.wish.accelerators and type(error).__name__ not in _FILE_FAULTS:
            return RuntimeUnavailableError(
                f"onnxruntime {self.version} cannot run {self.path} on "
                f"{', '.join(self.wish.names)}: {error}; check the provider's drivers and "
                f"libraries. If nodes were left to the CPU: {how_to_allow_cpu(self.wish)}"
            )
        return FormatError(
            f"{self.path} is no model that onnxruntime {self.version} can load: {error}"
        )


class OnnxRuntimeSession:
    """An ONNX Runtime session as a `Session`.

    With another provider than the CPU, the first run is profiled: only then ONNX Runtime tells
    which provider ran which node, in every version that the agent accepts.
    """

    def __init__(self, opener: _Opener) -> None:
        self._opener = opener
        self._forget_proof: weakref.finalize[..., OnnxRuntimeSession] | None = None
        proof = None
        if opener.wish.accelerators:
            with storage_errors("making a folder for a profile"):
                folder = tempfile.mkdtemp(prefix="trimtab-profile-")
            # Also where the session is never run.
            self._forget_proof = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            proof = f"{folder}/run"
        self._session = opener.open(proof)
        self.inputs = tuple(_spec(node, opener.path) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node, opener.path) for node in self._session.get_outputs())
        self.provider: str | None = opener.wish.names[0]
        self.version = opener.version
        types = [node.type for node in self._session.get_inputs() + self._session.get_outputs()]
        self._has_bfloat16 = values.BFLOAT16 in types
        if self._has_bfloat16:
            values.check_has_bfloat16(opener.module, opener.version, opener.path)

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Runs one inference; see `Session.run`."""
        outputs = self._run(self._session, arrays)
        if self._forget_proof is not None:
            self._prove(Path(self._session.end_profiling()))
            self._forget_proof()
            self._forget_proof = None
        return outputs

    def profile(self, arrays: Sequence[Array], runs: int) -> tuple[OperatorTime, ...]:
        """Times every operator, in a session of its own; see `Session.profile`."""
        with tempfile.TemporaryDirectory(prefix="trimtab-profile-") as folder:
            session = self._opener.open(f"{folder}/run")
            for _ in range(1 + runs):
                self._run(session, arrays)
            return read_profile(Path(session.end_profiling()), skip_runs=1)

    def _run(self, session: Foreign, arrays: Sequence[Array]) -> list[Array]:
        check_arrays(self.inputs, arrays)
        names = [spec.name for spec in self.outputs]
        feeds = {spec.name: array for spec, array in zip(self.inputs, arrays, strict=True)}
        try:
            if self._has_bfloat16:
                return values.run(self._opener.module, session, names, feeds)
            outputs: list[Array] = session.run(names, feeds)
        except Exception as error:  # its exceptions have no common base but Exception
            raise DeviceError(f"onnxruntime failed to run the model: {error}") from error
        return outputs

    def _prove(self, profile: Path) -> None:
        """Checks where the nodes ran, and remembers it."""
        ran = by_provider(read_profile(profile))
        if not ran:  # a build without a profiler: ONNX Runtime's own checks must do
            return
        self._opener.wish.check_placement(ran, self.version)
        self.provider = ",".join(name for name in self._opener.wish.names if name in ran)


def _spec(node: Foreign, path: Path) -> TensorSpec:
    """Returns the spec of one input or output; a symbolic dimension is a string or None there.

    What integers stand for is in the graph, which ONNX Runtime does not show.
    """
    if node.type not in values.DTYPES:
        raise FormatError(f"{path}: {node.name} has the type {node.type}, which numpy has not")
    return TensorSpec(
        name=node.name,
        shape=tuple(size if isinstance(size, int) else None for size in node.shape),
        dtype=values.DTYPES[node.type],
    )
