"""OpenVINO IR, run by OpenVINO on the device that the options name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from trimtab_agent.contract.manifest import TensorSpec
from trimtab_agent.contract.measurement import OperatorTime
from trimtab_agent.contract.session_options import DEVICE, OPTIONS
from trimtab_agent.errors import CallerError, DeviceError, FormatError, RuntimeUnavailableError
from trimtab_agent.runtimes.base import (
    Foreign,
    Option,
    check_arrays,
    check_options,
    sum_operators,
)

if TYPE_CHECKING:
    from trimtab_agent.runtimes.base import Array

_CPU = "CPU"


def open_session(
    module: ModuleType,
    version: str,
    path: Path,
    *,
    threads: int,
    options: Mapping[str, Option],
    cache_dir: Path | None,
) -> OpenVinoSession:
    """Loads an `.xml` file with its `.bin`.

    Raises:
        CallerError: An option is unknown, or OpenVINO refuses its value.
        FormatError: The file is no model.
        RuntimeUnavailableError: The device is not here, or cannot run the model.
    """
    check_options("openvino", options)
    core = module.Core()
    device = str(options.get(DEVICE, _CPU))
    _check_device(core, device, version)
    properties = _properties(core, device, threads, options)
    if cache_dir is not None and device != _CPU:
        # On a CPU compiling is quick, and the cache would hold the weights a second time.
        properties["CACHE_DIR"] = str(cache_dir / f"openvino-{version}")
    try:
        core.set_property(device, properties)
    except RuntimeError as error:
        raise CallerError(
            f"openvino {version} refuses the options {dict(options)}: {_last_line(error)}"
        ) from error
    try:
        model = _without_bfloat16(module, core.read_model(path))
    except RuntimeError as error:
        raise _no_model(path, version, error) from error

    def compile_model(extra: Mapping[str, Option]) -> Foreign:
        try:
            return core.compile_model(model, device, dict(extra))
        except RuntimeError as error:
            if device == _CPU:
                raise _no_model(path, version, error) from error
            raise RuntimeUnavailableError(
                f"openvino {version} cannot run {path} on {device}: {_last_line(error)}"
            ) from error

    return OpenVinoSession(compile_model, version, device)


class OpenVinoSession:
    """A compiled OpenVINO model, with one inference request, as a `Session`."""

    def __init__(
        self, compile_model: Callable[[Mapping[str, Option]], Foreign], version: str, device: str
    ) -> None:
        compiled = compile_model({})
        taken = [str(name) for name in compiled.get_property("EXECUTION_DEVICES")]
        if any(_kind(name) != _kind(device) for name in taken):
            raise RuntimeUnavailableError(
                f"openvino {version} took {', '.join(taken)} in place of {device}"
            )
        self._compile = compile_model
        self._request = compiled.create_infer_request()
        self.inputs = tuple(_spec(port) for port in compiled.inputs)
        self.outputs = tuple(_spec(port) for port in compiled.outputs)
        self.provider: str | None = ",".join(taken)
        self.version = version

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Runs one inference; see `Session.run`."""
        self._infer(self._request, arrays)
        return [
            self._request.get_output_tensor(index).data.copy() for index in range(len(self.outputs))
        ]

    def profile(self, arrays: Sequence[Array], runs: int) -> tuple[OperatorTime, ...]:
        """Times every operator, in a model compiled for it; see `Session.profile`."""
        request = self._compile({"PERF_COUNT": True}).create_infer_request()
        readings = []
        for _ in range(1 + runs):
            self._infer(request, arrays)
            readings.append(list(request.profiling_info))
        # A node of the graph has the same place in each reading.
        return sum_operators(
            _operator(node, running_mean=self.provider == _CPU)
            for node in zip(*readings, strict=True)
            if any(_was_run(reading) for reading in node)
        )

    def _infer(self, request: Foreign, arrays: Sequence[Array]) -> None:
        check_arrays(self.inputs, arrays)
        try:
            request.infer(dict(enumerate(arrays)), share_inputs=True)
        except RuntimeError as error:
            raise DeviceError(f"openvino failed to run the model: {_last_line(error)}") from error


def _check_device(core: Foreign, device: str, version: str) -> None:
    """Refuses a device that is not here, and those that choose one by themselves."""
    available = [str(name) for name in core.available_devices]
    if not any(device == name or device == _kind(name) for name in available):
        raise RuntimeUnavailableError(
            f"openvino {version} has no device {device!r} here: take one of "
            f"{', '.join(available)}, or install its driver. AUTO, MULTI and HETERO may fall back "
            "to the CPU, and are not taken"
        )


def _properties(
    core: Foreign, device: str, threads: int, options: Mapping[str, Option]
) -> dict[str, Option]:
    """Returns the properties to set on a device: our own, where it has them, and the options."""
    own: dict[str, Option] = {
        # One request after the other is what is measured; the throughput hint would split cores.
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        # Left alone, OpenVINO runs float models in bfloat16 or float16 where the device can, so
        # the same file would give other outputs there than those it was checked with.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    # Until its plugin is loaded, OpenVINO puts properties aside unread; asking for one loads it.
    supported = core.get_property(device, "SUPPORTED_PROPERTIES")
    if _kind(device) == "NPU":
        del own["INFERENCE_PRECISION_HINT"]  # it has no float32
    given = {
        name: bool(int(value)) if OPTIONS["openvino"][name].kind == "flag" else value
        for name, value in options.items()
        if name != DEVICE
    }
    return {**{name: value for name, value in own.items() if name in supported}, **given}


def _without_bfloat16(module: ModuleType, model: Foreign) -> Foreign:
    """Makes bfloat16 inputs and outputs float32: numpy has no bfloat16."""
    ports = [*model.inputs, *model.outputs]
    if not any(port.element_type == module.Type.bf16 for port in ports):
        return model
    convert = module.preprocess.PrePostProcessor(model)
    for ports, edge in ((model.inputs, convert.input), (model.outputs, convert.output)):
        for index, port in enumerate(ports):
            if port.element_type == module.Type.bf16:
                edge(index).tensor().set_element_type(module.Type.f32)
    return convert.build()


def _spec(port: Foreign) -> TensorSpec:
    """Returns the spec of one port."""
    return TensorSpec(
        # A port can have several names, in a set: take the same one every time.
        name=min(port.names, default=port.node.friendly_name),
        shape=tuple(None if size.is_dynamic else size.get_length() for size in port.partial_shape),
        dtype=port.element_type.to_dtype().name,
    )


def _was_run(info: Foreign) -> bool:
    """Says whether a reading is of a node that ran, in half a microsecond or more."""
    return str(info.status).endswith("EXECUTED")


def _operator(readings: Sequence[Foreign], *, running_mean: bool) -> OperatorTime:
    """Returns what a node took in all readings but the first.

    Args:
        readings: Of one node, after each run; in whole microseconds.
        running_mean: The CPU plugin gives the mean of all runs so far (its perf_count.h), the
            other plugins give the last run.
    """
    times_us = [reading.real_time.total_seconds() * 1e6 for reading in readings]
    warm_us = (
        max(times_us[-1] * len(times_us) - times_us[0], 0.0) if running_mean else sum(times_us[1:])
    )
    ran = next(reading for reading in readings if _was_run(reading))
    return OperatorTime(
        name=ran.node_name,
        operator=ran.node_type,
        kernel=ran.exec_type or None,
        calls=len(readings) - 1,
        time_us=warm_us,
    )


def _kind(device: str) -> str:
    """Returns a device without its number: `GPU` of `GPU.1`."""
    return device.partition(".")[0]


def _no_model(path: Path, version: str, error: RuntimeError) -> FormatError:
    return FormatError(f"{path} is no model that openvino {version} can load: {_last_line(error)}")


def _last_line(error: RuntimeError) -> str:
    """Returns the line that says what happened; those above it name OpenVINO's source files."""
    return str(error).strip().splitlines()[-1]
