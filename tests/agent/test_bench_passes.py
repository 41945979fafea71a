"""What the child does, without a child: latency, memory, golden samples, environment."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.models import write_golden, write_model
from support.sysfs import ORIN_NX, write_tree
from trimtab_agent import runtimes
from trimtab_agent.bench import environment, golden, latency, memory
from trimtab_agent.bench.inventory import inventory
from trimtab_agent.bench.plan import NORMAL, QUICK, Plan
from trimtab_agent.contract.manifest import Golden, TensorSpec
from trimtab_agent.errors import FormatError, GoldenError, MeasurementError


class Model:
    """A model whose runs take what a script says, on a clock of its own."""

    def __init__(self, *, first_ms: float, then_ms: float) -> None:
        self.runs = 0
        self.now_ns = 0
        self.first_ms, self.then_ms = first_ms, then_ms

    def run(self) -> None:
        self.now_ns += int(1e6 * (self.then_ms if self.runs else self.first_ms))
        self.runs += 1

    def clock_ns(self) -> int:
        return self.now_ns


def timings(model: Model, **changes) -> latency.Timings:
    return latency.time_runs(model.run, Plan(**changes), clock_ns=model.clock_ns)


def test_warming_up_takes_both_the_runs_and_the_time():
    assert timings(Model(first_ms=500, then_ms=200)).warmup_count == 10
    assert timings(Model(first_ms=500, then_ms=5)).warmup_count == 101


def test_warming_up_a_slow_model_ends_at_its_limit():
    assert timings(Model(first_ms=2000, then_ms=2000)).warmup_count == 3


def test_timed_runs_end_with_the_duration_but_not_before_the_minimum():
    assert len(timings(Model(first_ms=1, then_ms=10)).raw_ns) == 200
    assert len(timings(Model(first_ms=1, then_ms=100)).raw_ns) == 100


def test_timed_runs_of_a_slow_model_end_at_the_limit():
    assert len(timings(Model(first_ms=1, then_ms=3000)).raw_ns) == 7


def test_timed_runs_of_a_fast_model_are_spread_over_the_duration():
    model = Model(first_ms=1, then_ms=0.01)
    found = timings(model, max_runs=1000)
    assert len(found.raw_ns) == 1000
    timed_s = (model.runs - found.warmup_count) * 1e-5
    assert timed_s == pytest.approx(2.0, rel=0.01)


def test_the_first_run_is_kept_apart():
    found = timings(Model(first_ms=70, then_ms=10))
    assert found.first_ns == 70_000_000
    assert set(found.raw_ns) == {10_000_000}


@given(raw_ns=st.lists(st.integers(0, 10**13), min_size=1, max_size=400))
def test_a_summary_keeps_every_run_and_orders_its_figures(raw_ns):
    found = latency.summarise(
        latency.Timings(first_ns=5, warmup_count=3, raw_ns=raw_ns), load_ns=7000, threads=2
    )
    raw_us = struct.unpack(f"<{len(raw_ns)}I", found.raw_us)
    assert all(
        abs(kept - min(ns / 1000, 2**32 - 1)) <= 0.5
        for kept, ns in zip(raw_us, raw_ns, strict=True)
    )
    figures = [found.min_us, found.p50_us, found.p90_us, found.p95_us, found.p99_us, found.max_us]
    present = [figure for figure in figures if figure is not None]
    assert present == sorted(present)
    assert (found.p99_us is None) == (len(raw_ns) < 299)
    assert (found.load_us, found.first_us, found.threads) == (7.0, 0.005, 2)


def test_a_longer_duration_moves_the_limits_with_it():
    assert len(timings(Model(first_ms=1, then_ms=1000), duration_s=60).raw_ns) == 60
    for plan in (QUICK, NORMAL, Plan(duration_s=7200), Plan(energy_s=7200)):
        assert plan.timeout_s > plan.warmup_limit_s + plan.timed_limit_s
        assert plan.timeout_s > 2 * plan.idle_s + plan.energy_s


def proc_tree(root: Path, *, rollup: bool) -> Path:
    (root / "self").mkdir()
    (root / "self/status").write_text("Name:\tx\nVmHWM:\t    3000 kB\nVmRSS:\t    1000 kB\n")
    (root / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    if rollup:
        (root / "self/smaps_rollup").write_text("00-ff ---p [rollup]\nPss:   900 kB\n")
    return root


def test_memory_from_the_kernels_counts(tmp_path):
    proc = proc_tree(tmp_path, rollup=True)

    def load():
        (proc / "meminfo").write_text("MemAvailable:    7500 kB\n")
        return lambda: None

    found = memory.measure_memory(load, runs=3, proc=proc)
    assert (found.peak_rss_bytes, found.baseline_rss_bytes) == (3000 * 1024, 1000 * 1024)
    assert found.model_peak_bytes == 2000 * 1024
    assert (found.pss_bytes, found.available_drop_bytes) == (900 * 1024, 500 * 1024)
    assert (proc / "self/clear_refs").read_text() == "5"


def test_memory_that_the_kernel_does_not_tell_is_absent(tmp_path):
    proc = proc_tree(tmp_path, rollup=False)
    (proc / "meminfo").unlink()
    found = memory.measure_memory(lambda: lambda: None, runs=1, proc=proc)
    assert (found.pss_bytes, found.available_drop_bytes) == (None, None)
    with pytest.raises(MeasurementError, match="has no VmRSS"):
        memory.measure_memory(lambda: lambda: None, runs=1, proc=tmp_path / "absent")


def test_memory_of_this_process_sees_what_a_model_takes():
    held = []

    def load():
        held.append(np.ones(32 * 2**20, np.uint8))
        return lambda: None

    found = memory.measure_memory(load, runs=1)
    assert 30 * 2**20 < found.model_peak_bytes < 48 * 2**20


SPECS = (TensorSpec(name="score", shape=(None, 2), dtype="float32"),)


def outputs(*rows) -> list[np.ndarray]:
    return [np.array(rows, np.float32)]


def test_golden_outputs_within_the_limit():
    worst = golden.compare(outputs([1, 2], [3, 4.25]), outputs([1, 2], [3, 4]), SPECS, limit=0.25)
    assert worst == 0.25


@pytest.mark.parametrize(
    ("actual", "expected", "message"),
    [
        (
            outputs([1, 2], [3, 4.5]),
            outputs([1, 2], [3, 4]),
            "output 0 (score) differs by 0.5 in golden sample 1; the limit is 0.25",
        ),
        (
            outputs([np.nan, 2], [9, 9]),
            outputs([1, 2], [3, 4]),
            "output 0 (score) is NaN or infinite in golden sample 0",
        ),
        (
            outputs([np.inf, 2]),
            outputs([np.inf, 2]),
            "output 0 (score) is NaN or infinite in golden sample 0",
        ),
        (outputs([1, 2, 3]), outputs([1, 2]), "output 0 (score) has the shape (1, 3), not (1, 2)"),
        (
            [np.array([[1, 2]], np.float64)],
            outputs([1, 2]),
            "output 0 (score) has the dtype float64, not float32",
        ),
        ([], outputs([1, 2]), "the model gives 0 outputs, not 1"),
    ],
    ids=["too far", "nan", "infinite", "shape", "dtype", "number"],
)
def test_golden_outputs_that_fail(actual, expected, message):
    with pytest.raises(GoldenError) as caught:
        golden.compare(actual, expected, SPECS, limit=0.25)
    assert str(caught.value) == message


def test_no_limit_lets_nan_and_infinity_through():
    for value in (np.nan, np.inf, -np.inf):
        with pytest.raises(GoldenError, match="is NaN or infinite in golden sample 1"):
            golden.compare(outputs([1, 2], [value, 2]), outputs([1, 2], [1, 2]), SPECS, limit=1e308)


def test_golden_integers_do_not_wrap_around():
    low, high = [np.array([[-128]], np.int8)], [np.array([[127]], np.int8)]
    assert golden.compare(low, high, SPECS, limit=255) == 255


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"in_0": np.ones((2, 3))}, "must hold in_0"),
        ({"in_1": np.ones((2, 3)), "out_0": np.ones((2, 3))}, "must hold in_0"),
        ({"in_0": np.ones((2, 3)), "out_0": np.ones((3, 3))}, "same number of samples"),
        ({"in_0": np.ones((0, 3)), "out_0": np.ones((0, 3))}, "same number of samples"),
        ({"in_0": np.float32(1), "out_0": np.float32(1)}, "same number of samples"),
        ({"in_0": np.array([{}]), "out_0": np.ones((1, 3))}, "cannot be read"),
    ],
    ids=["no outputs", "not from 0", "numbers differ", "none", "scalars", "pickled"],
)
def test_golden_files_that_are_wrong(tmp_path, arrays, message):
    path = tmp_path / "golden.npz"
    np.savez(path, **arrays)
    with pytest.raises(FormatError, match=message):
        golden.load_samples(path)


def test_golden_files_that_are_no_archive(tmp_path):
    path = tmp_path / "golden.npz"
    write_golden(path)
    whole = path.read_bytes()
    altered = whole.replace(whole[100:104], b"\xff\xfe\xfd\xfc", 1)
    for content in (b"", b"text", b"PK\x03\x04 cut short", whole[:-30], altered):
        path.write_bytes(content)
        with pytest.raises(FormatError, match=r"golden\.npz cannot be read"):
            golden.load_samples(path)


def test_golden_samples_must_fit_the_manifest_and_the_model(tmp_path):
    session = runtimes.load("onnxruntime", write_model("onnxruntime", tmp_path))
    samples = golden.load_samples(write_golden(tmp_path / "golden.npz"))
    entry = Golden(path="golden.npz", count=4, max_abs_error=0.0)
    assert golden.check(session, samples, entry).samples == 4
    with pytest.raises(FormatError, match="holds 4 samples, the manifest promises 5"):
        golden.check(session, samples, Golden(path="golden.npz", count=5, max_abs_error=0.0))
    wide = golden.Samples(inputs=[np.ones((4, 9), np.float32)] * 2, outputs=samples.outputs)
    with pytest.raises(FormatError, match=r"does not fit the model: input 0 \(zeta\)"):
        golden.check(session, wide, entry)


CPU0 = "sys/devices/system/cpu/cpu0"


def machine(root: Path) -> Path:
    return write_tree(
        root,
        ORIN_NX,
        {
            f"{CPU0}/cpufreq": {"scaling_governor": "schedutil", "scaling_cur_freq": 1728000},
            f"{CPU0}/thermal_throttle": {"core_throttle_count": 40},
            "sys/class/thermal/thermal_zone2": {"type": "cv0-thermal", "temp": -256000},
            "sys/class/thermal/thermal_zone3": {"type": "soc0-thermal", "temp": "n/a"},
            "sys/class/power_supply/BAT0": {"type": "Battery", "status": "Discharging"},
            "sys/class/power_supply/mouse": {"type": "Battery", "scope": "Device"},
            "proc": {"loadavg": "0.52 0.58 0.59 1/977 4711"},
        },
    )


def test_environment_of_a_machine(tmp_path):
    before = environment.observe(machine(tmp_path))
    (tmp_path / "sys/class/thermal/thermal_zone0/temp").write_text("71000\n")
    found = environment.compare(before, environment.observe(tmp_path))
    assert found.governor == "schedutil"
    assert found.frequency_start_mhz == 1728.0
    assert (found.temperature_start_c, found.temperature_end_c) == (63.625, 71.0)
    assert found.throttled is False
    assert (found.load_average, found.on_battery) == (0.52, True)


@pytest.mark.parametrize(
    "counter",
    [f"{CPU0}/thermal_throttle/core_throttle_count", "sys/class/hwmon/hwmon3/oc3_event_cnt"],
)
def test_throttling_is_a_counter_that_moved(tmp_path, counter):
    before = environment.observe(machine(tmp_path))
    (tmp_path / counter).write_text("41\n")
    assert environment.compare(before, environment.observe(tmp_path)).throttled is True


def test_environment_of_a_machine_that_tells_nothing(tmp_path):
    nothing = environment.observe(tmp_path)
    assert environment.compare(nothing, nothing) == environment.Environment()


def test_frequency_as_x86_prints_it(tmp_path):
    write_tree(tmp_path, {"proc": {"cpuinfo": "processor\t: 0\ncpu MHz\t\t: 2596.136"}})
    assert environment.observe(tmp_path).frequency_mhz == 2596.136


def test_inventory_of_this_machine(tmp_path):
    write_tree(
        tmp_path, ORIN_NX, {"proc/device-tree": {"model": "A Board\0"}, "proc": {"cpuinfo": ""}}
    )
    found = inventory("generic-x86-64", root=tmp_path)
    assert found.profile == "generic-x86-64"
    assert found.cpu_model is not None
    assert found.cpu_model.startswith("A Board")
    assert found.power_source == "ina:VDD_IN"
    assert found.cores >= 1
    assert found.ram_bytes > 0
    assert "onnxruntime" in found.runtimes
