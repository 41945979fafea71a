"""OpenVINO IR, run by OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from trimtab_agent.contract.manifest import TensorSpec
from trimtab_agent.errors import CallerError, DeviceError, FormatError
from trimtab_agent.runtimes.base import Foreign, Option, check_arrays

if TYPE_CHECKING:
    from trimtab_agent.runtimes.base import Array

_DEVICE = "CPU"


def open_session(
    module: ModuleType,
    version: str,
    path: Path,
    *,
    threads: int,
    options: Mapping[str, Option],
) -> OpenVinoSession:
    """Loads an `.xml` file with its `.bin`.

    Options are OpenVINO's own CPU properties; OpenVINO refuses what it does not know.

    Raises:
        CallerError: OpenVINO refuses an option.
        FormatError: The file is no model.
    """
    core = module.Core()
    properties: dict[str, Option] = {
        # One request after the other is what is measured; the throughput hint would split cores.
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        # Left alone, OpenVINO runs float models in bfloat16 or float16 where the CPU can, so the
        # same file would give other outputs on another device than those it was checked with.
        "INFERENCE_PRECISION_HINT": "f32",
        **options,
    }
    # Until its plugin is loaded, OpenVINO puts properties aside unread; asking for one loads it.
    core.get_property(_DEVICE, "SUPPORTED_PROPERTIES")
    try:
        core.set_property(_DEVICE, properties)
    except RuntimeError as error:
        raise CallerError(
            f"openvino {version} refuses the options {dict(options)}: {_last_line(error)}"
        ) from error
    try:
        compiled = core.compile_model(core.read_model(path), _DEVICE)
    except RuntimeError as error:
        raise FormatError(
            f"{path} is no model that openvino {version} can load: {_last_line(error)}"
        ) from error
    return OpenVinoSession(compiled, version)


class OpenVinoSession:
    """A compiled OpenVINO model, with one inference request, as a `Session`."""

    def __init__(self, compiled: Foreign, version: str) -> None:
        self._request = compiled.create_infer_request()
        self.inputs = tuple(_spec(port) for port in compiled.inputs)
        self.outputs = tuple(_spec(port) for port in compiled.outputs)
        self.provider: str | None = ",".join(compiled.get_property("EXECUTION_DEVICES"))
        self.version = version

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Runs one inference; see `Session.run`."""
        check_arrays(self.inputs, arrays)
        try:
            self._request.infer(dict(enumerate(arrays)), share_inputs=True)
        except RuntimeError as error:
            raise DeviceError(f"openvino failed to run the model: {_last_line(error)}") from error
        return [
            self._request.get_output_tensor(index).data.copy() for index in range(len(self.outputs))
        ]


def _spec(port: Foreign) -> TensorSpec:
    """Returns the spec of one port."""
    return TensorSpec(
        # A port can have several names, in a set: take the same one every time.
        name=min(port.names, default=port.node.friendly_name),
        shape=tuple(None if size.is_dynamic else size.get_length() for size in port.partial_shape),
        dtype=port.element_type.to_dtype().name,
    )


def _last_line(error: RuntimeError) -> str:
    """Returns the line that says what happened; those above it name OpenVINO's source files."""
    return str(error).strip().splitlines()[-1]
