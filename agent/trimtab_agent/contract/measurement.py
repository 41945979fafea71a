"""What a device measured, and under which conditions. Absent is None, never zero."""

from __future__ import annotations

from typing import Literal

import msgspec

EnergyLevel = Literal["counter", "integrated_samples", "modelled", "none"]
"""How sure an energy figure is (docs/decisions/0003), best first:

* `counter`: a hardware energy counter, read before and after.
* `integrated_samples`: power sampled while the model ran, integrated over time.
* `modelled`: computed from something else than power, by a published fit with a known error.
* `none`: nothing here can tell; the figures are null.
"""


class Latency(msgspec.Struct, kw_only=True, frozen=True):
    """Latency of one inference, batch of one, in microseconds, from a monotonic clock.

    Attributes:
        count: Timed runs, after warm-up.
        warmup_count: Runs thrown away first.
        load_us: From opening the file to a session that can run.
        first_us: The very first run.
        mean_us: Mean over the timed runs.
        min_us: Fastest timed run.
        max_us: Slowest timed run.
        p50_us: Median.
        p90_us: 90th percentile; None when `count` is too small to say (under 29 runs).
        p95_us: 95th percentile; None under 59 runs.
        p99_us: 99th percentile; None under 299 runs.
        p50_interval_us: 95 % confidence interval of the median, by order statistics.
        p95_interval_us: 95 % confidence interval of the 95th percentile, if there are enough
            runs for both ends.
        steady: Whether the medians of the last blocks of runs agree within 2 %.
        threads: Threads that the runtime was told to use.
        raw_us: Every timed run in order: unsigned 32-bit little-endian microseconds.
    """

    count: int
    warmup_count: int
    load_us: float
    first_us: float
    mean_us: float
    min_us: float
    max_us: float
    p50_us: float
    p90_us: float | None
    p95_us: float | None
    p99_us: float | None
    p50_interval_us: tuple[float, float] | None
    p95_interval_us: tuple[float, float] | None
    steady: bool
    threads: int
    raw_us: bytes


class OperatorTime(msgspec.Struct, kw_only=True, frozen=True):
    """What one operator of a model costs, as the runtime's own profiler tells it.

    Attributes:
        name: Of the node in the graph that the runtime made of the file.
        operator: Its type, by the runtime's name, such as `Conv` or `Convolution`.
        kernel: What executed it: ONNX Runtime's provider, OpenVINO's kernel; None if not told.
        calls: How often it ran.
        time_us: Microseconds of all calls together. Operators that run side by side add up to
            more than a run took.
    """

    name: str
    operator: str
    kernel: str | None
    calls: int
    time_us: float


class Memory(msgspec.Struct, kw_only=True, frozen=True):
    """Memory of the process that ran the model and nothing else.

    Attributes:
        peak_rss_bytes: The process's largest resident set (`VmHWM`), interpreter and runtime
            included: what the device must spare to run the model this way.
        baseline_rss_bytes: Resident set with the runtime imported and no model loaded.
        model_peak_bytes: `peak_rss_bytes` less `baseline_rss_bytes`: what the model added.
        pss_bytes: Proportional set after the runs (`smaps_rollup`), None where the kernel has
            none.
        available_drop_bytes: Fall of the machine's `MemAvailable` while the model was loaded;
            the only figure that sees an accelerator's buffers in shared memory. Noisy.
    """

    peak_rss_bytes: int
    baseline_rss_bytes: int
    model_peak_bytes: int
    pss_bytes: int | None
    available_drop_bytes: int | None


class Energy(msgspec.Struct, kw_only=True, frozen=True):
    """Energy of one inference, in millijoules.

    Attributes:
        level: How the figure came about; `none` means that the figures are null.
        source: The sensor, such as `rapl:package-0`, or None.
        scope: What the sensor sees: `soc`, `module`, `board` or `wall`.
        gross_mj: Energy per inference, the idle power of the machine included.
        net_mj: Energy per inference above idle.
        net_uncertainty_mj: Standard uncertainty of `net_mj`.
        idle_power_mw: Mean power while idle, before and after.
        load_power_mw: Mean power while the model ran.
        inferences: Runs that the energy was divided by.
        reason: Why the level is `none`, or what to beware of.
    """

    level: EnergyLevel
    source: str | None = None
    scope: str | None = None
    gross_mj: float | None = None
    net_mj: float | None = None
    net_uncertainty_mj: float | None = None
    idle_power_mw: float | None = None
    load_power_mw: float | None = None
    inferences: int | None = None
    reason: str | None = None


class Environment(msgspec.Struct, kw_only=True, frozen=True):
    """The state of the machine around the measurement. None where it cannot be read.

    Attributes:
        governor: CPU frequency governor of CPU 0.
        frequency_start_mhz: Frequency of CPU 0 before.
        frequency_end_mhz: Frequency of CPU 0 after.
        temperature_start_c: Hottest CPU or SoC sensor before.
        temperature_end_c: The same sensor after.
        throttled: Whether a throttle counter or flag moved during the measurement.
        load_average: One-minute load average before: above the core count, timings suffer.
        on_battery: Whether the machine ran from a battery.
    """

    governor: str | None = None
    frequency_start_mhz: float | None = None
    frequency_end_mhz: float | None = None
    temperature_start_c: float | None = None
    temperature_end_c: float | None = None
    throttled: bool | None = None
    load_average: float | None = None
    on_battery: bool | None = None


class Measurement(msgspec.Struct, kw_only=True, frozen=True):
    """One model measured on one device: latency, memory and energy in separate passes.

    Attributes:
        runtime: Name of the runtime.
        runtime_version: Its version.
        provider: What actually executed the graph, such as `XNNPACK` or
            `CPUExecutionProvider`; None when the runtime does not tell.
        latency: The latency pass.
        memory: The memory pass.
        energy: The energy pass, level `none` when nothing here can measure it.
        environment: The machine around it.
    """

    runtime: str
    runtime_version: str
    provider: str | None
    latency: Latency
    memory: Memory
    energy: Energy
    environment: Environment


class Comparison(msgspec.Struct, kw_only=True, frozen=True):
    """A new version beside the one that runs, measured in turns on the same machine.

    A ratio is the new version's figure divided by the running one's: above 1 is slower or
    hungrier. None where one of the two was not measured. Ratios of latency and energy come from
    the turns in pairs (docs/measuring.md), not from the figures of all turns together.

    Attributes:
        target: TUF target name of the version that ran.
        rounds: Pairs of turns that the figures rest on.
        disturbed: Pairs in which another process had the processor for a tenth of a turn, or the
            machine throttled. They are left out, unless fewer than six others remain.
        running: The running version, all rounds together.
        latency_percentile: Which percentile of the latencies `latency_ratio` is of: the 95th; the
            median where disturbed pairs had to be used, since their slowest runs are the
            scheduler's doing.
        latency_ratio: Of these percentiles.
        latency_interval: 95 % confidence interval of `latency_ratio`.
        memory_ratio: Of the largest resident sets.
        energy_ratio: Of the net energies of one inference.
        energy_interval: 95 % confidence interval of `energy_ratio`.
    """

    target: str
    rounds: int
    running: Measurement
    latency_ratio: float | None
    latency_interval: tuple[float, float] | None
    memory_ratio: float | None
    energy_ratio: float | None
    energy_interval: tuple[float, float] | None
    disturbed: int = 0
    latency_percentile: Literal[50, 95] = 95


class GateResult(msgspec.Struct, kw_only=True, frozen=True):
    """One limit that a package was held against on the device.

    Attributes:
        gate: What was measured.
        against: `budget`: an absolute limit, in the unit of the figure: microseconds, bytes,
            millijoules. `running`: a limit on the ratio to the version that runs.
        limit: The largest that is let through.
        value: What was measured; None if it was not.
        interval: 95 % confidence interval of `value`, if it has one.
        verdict: `unknown` where nothing was measured: it lets the package through, and says so.
    """

    gate: Literal["latency", "memory", "energy"]
    against: Literal["budget", "running"]
    limit: float
    value: float | None
    interval: tuple[float, float] | None
    verdict: Literal["kept", "missed", "unknown"]
