"""Power sensors on captured trees of files, and what is computed from their readings."""

from __future__ import annotations

import copy
import math
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.sysfs import AGX_ORIN, INA226, NANO, ORIN_NX, RAPL, THOR, write_tree
from trimtab_agent.errors import DeviceError
from trimtab_agent.power import EnergyCounter, PowerSampler, detect, ina, measure_energy, rapl
from trimtab_agent.power.rails import choose_total
from trimtab_agent.power.trace import (
    Reading,
    Window,
    energy_per_inference,
    window_of_counter,
    window_of_samples,
)

PACKAGE = "sys/class/powercap/intel-rapl:0"
DRAM = "sys/class/powercap/intel-rapl:0:2"


@pytest.mark.parametrize(
    ("tree", "name", "scope", "power_mw"),
    [
        (ORIN_NX, "ina:VDD_IN", "module", 9309.696),
        # 7799 would be the bug of counting VDDQ_VDD2_1V8AO twice.
        (AGX_ORIN, "ina:VDD_GPU_SOC+VDD_CPU_CV+VIN_SYS_5V0", "module", 6708.32),
        (NANO, "ina:POM_5V_IN", "module", 933),
        (THOR, "ina:VIN", "board", 23000),
        (INA226, "ina:unlabelled", "board", 6329),
    ],
    ids=["orin nx", "agx orin", "nano", "thor", "ina226"],
)
def test_the_total_of_a_board(tmp_path, tree, name, scope, power_mw):
    found = ina.find(write_tree(tmp_path, tree))
    assert (found.name, found.scope, found.level) == (name, scope, "integrated_samples")
    assert found.sample_mw() == pytest.approx(power_mw)


def test_a_reading_below_zero_is_kept(tmp_path):
    tree = copy.deepcopy(THOR)
    del tree["sys/class/hwmon/hwmon5"]
    found = ina.find(write_tree(tmp_path, tree))
    assert found.sample_mw() == pytest.approx(-392 + 6507.2 + 6519.5)


def test_the_step_of_a_reading_follows_from_the_shunt(tmp_path):
    assert ina.find(write_tree(tmp_path / "a", ORIN_NX)).resolution_mw == pytest.approx(40.1, 0.01)
    agx = ina.find(write_tree(tmp_path / "b", AGX_ORIN)).resolution_mw
    assert agx == pytest.approx(math.hypot(398.32, 398, 100.64))
    assert ina.find(write_tree(tmp_path / "c", INA226)).resolution_mw is None


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["MYSTERY", "VDD_CPU_CV"], "rails MYSTERY, VDD_CPU_CV make up the total is not known"),
        (["", ""], r"rails \(no label\), \(no label\)"),
    ],
)
def test_rails_that_are_unknown_are_refused(labels, message):
    with pytest.raises(DeviceError, match=message):
        choose_total(labels)


def test_a_sensor_whose_readings_fail_is_not_there(tmp_path):
    write_tree(tmp_path, ORIN_NX)
    (tmp_path / "sys/class/hwmon/hwmon1/curr1_input").unlink()
    found = detect(tmp_path)
    assert found.source is None
    assert "curr1_input cannot be read" in found.reason


def test_rapl_adds_package_and_memory_and_unfolds_each(tmp_path):
    counter = rapl.find(write_tree(tmp_path, RAPL))
    assert counter.name == "rapl:package-0+dram"
    assert counter.read_uj() == 0
    (tmp_path / PACKAGE / "energy_uj").write_text("1000000\n")
    assert counter.read_uj() == 1000850
    (tmp_path / DRAM / "energy_uj").write_text("1500\n")
    assert counter.read_uj() == 1001350


@settings(max_examples=50)
@given(
    span=st.integers(1000, 10**12), steps=st.lists(st.integers(0, 999), max_size=20), data=st.data()
)
def test_a_counter_that_wraps_loses_nothing(span, steps, data):
    value = data.draw(st.integers(0, span - 1))
    total = 0
    for step in steps:
        after = (value + step) % span
        total += rapl.unfold(value, after, span)
        value = after
    assert total == sum(steps)


def test_rapl_refused_says_what_to_do(tmp_path, monkeypatch):
    write_tree(tmp_path, RAPL)
    read_text = Path.read_text

    def refuse(path, *args, **kwargs):
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(path))
        return read_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", refuse)
    found = detect(tmp_path)
    assert found.source is None
    assert "root alone may read" in found.reason
    assert "udev rule" in found.reason


def test_a_zone_that_holds_no_number(tmp_path):
    write_tree(tmp_path, RAPL)
    (tmp_path / PACKAGE / "energy_uj").write_text("lots\n")
    with pytest.raises(DeviceError, match="energy_uj holds 'lots', not a number"):
        rapl.find(tmp_path)


def test_a_counter_comes_before_samples(tmp_path):
    source = detect(write_tree(tmp_path, RAPL, ORIN_NX)).source
    assert isinstance(source, EnergyCounter)
    assert not isinstance(source, PowerSampler)


def test_a_machine_without_a_sensor_says_so(tmp_path):
    found = detect(tmp_path)
    assert found.source is None
    assert "no RAPL" in found.reason
    assert "no INA" in found.reason


def readings(*pairs: tuple[float, float]) -> list[Reading]:
    return [Reading(time_s=time_s, value=value) for time_s, value in pairs]


def test_a_counter_window_is_differences():
    window = window_of_counter(readings((0, 0), (1, 5_000_000), (3, 11_000_000)))
    assert window.mean_mw == pytest.approx(11000 / 3)
    assert window.block_mw == pytest.approx((5000, 3000))


def test_a_sample_window_weighs_by_time():
    window = window_of_samples(readings((0, 1000), (1, 1000), (1, 3000), (4, 3000)))
    assert window.mean_mw == pytest.approx(2500)
    assert window.duration_s == 4


@given(st.lists(st.floats(-1e5, 1e5), min_size=2, max_size=100))
def test_a_mean_lies_among_its_samples(values):
    window = window_of_samples(readings(*((0.1 * i, value) for i, value in enumerate(values))))
    assert min(values) - 1e-6 <= window.mean_mw <= max(values) + 1e-6


def flat(power_mw: float, *, spread_mw: float | None = None, wobble_mw: float = 0.0) -> Window:
    blocks = tuple(power_mw + wobble_mw * (-1) ** i for i in range(8))
    return Window(duration_s=2.0, mean_mw=power_mw, block_mw=blocks, spread_mw=spread_mw)


class Sensor:
    """A sensor with known errors, for computing only."""

    name, level, scope, note = "test", "integrated_samples", "module", ""

    def __init__(self, *, gain_error: float | None = 0.0, resolution_mw: float | None = None):
        self.gain_error, self.resolution_mw = gain_error, resolution_mw

    def sample_mw(self) -> float:
        raise NotImplementedError


def test_energy_of_one_inference_above_idle():
    found = energy_per_inference(Sensor(), flat(2000), flat(5000), flat(2000), inferences=100)
    assert found.gross_mj == pytest.approx(100)  # 5 W * 2 s / 100
    assert found.net_mj == pytest.approx(60)
    assert found.net_uncertainty_mj == pytest.approx(0)
    assert (found.idle_power_mw, found.load_power_mw, found.inferences) == (2000, 5000, 100)
    assert found.reason is None


def test_an_error_of_the_scale_carries_over_to_the_difference():
    found = energy_per_inference(
        Sensor(gain_error=0.01), flat(2000), flat(5000), flat(2000), inferences=100
    )
    assert found.net_uncertainty_mj == pytest.approx(0.6)


def test_blocks_that_differ_make_the_mean_uncertain():
    found = energy_per_inference(
        Sensor(), flat(2000), flat(5000, wobble_mw=100), flat(2000), inferences=100
    )
    # Standard deviation of 8 blocks at +-100 is 106.9; over sqrt(8), times 2 s / 100.
    assert found.net_uncertainty_mj == pytest.approx(106.904 / math.sqrt(8) * 0.02, rel=1e-4)


def test_readings_that_never_leave_one_step_may_be_half_a_step_off():
    still, noisy = flat(5000, spread_mw=0.0), flat(5000, spread_mw=200.0)
    assert still.standard_error_mw(398) == 199
    assert noisy.standard_error_mw(398) == pytest.approx(398 / math.sqrt(12 * 8))
    assert still.standard_error_mw(None) == 0


def test_idle_power_that_moves_is_said():
    found = energy_per_inference(Sensor(), flat(2000), flat(5000), flat(2200), inferences=1)
    assert found.reason == "idle power moved from 2000 to 2200 mW: something else was running"


def test_a_scale_without_a_stated_error_is_said():
    found = energy_per_inference(Sensor(gain_error=None), flat(1), flat(2), flat(1), inferences=1)
    assert "statistical only" in (found.reason or "")


class Board:
    """A board that takes 2 W at rest and 5 W for a while after each inference."""

    name, scope, note, gain_error = "board", "board", "", 0.0

    def __init__(self, *, fail_after: int = 10**9) -> None:
        self.busy_until = self.last = time.monotonic()
        self.energy_uj = 0.0
        self.reads, self.fail_after = 0, fail_after

    def infer(self) -> None:
        time.sleep(0.002)
        self._count()
        self.busy_until = time.monotonic() + 0.01

    def power_mw(self) -> float:
        return 5000.0 if time.monotonic() < self.busy_until else 2000.0

    def _count(self) -> None:
        now = time.monotonic()
        busy_s = max(0.0, min(now, self.busy_until) - self.last)
        self.energy_uj += 1e6 * (2.0 * (now - self.last) + 3.0 * busy_s)
        self.last = now

    def _read(self) -> None:
        self.reads += 1
        if self.reads > self.fail_after:
            raise DeviceError("the wire fell off")


class CountingBoard(Board):
    level = "counter"

    def read_uj(self) -> int:
        self._read()
        self._count()
        return int(self.energy_uj)


class SampledBoard(Board):
    level = "integrated_samples"
    resolution_mw = None

    def sample_mw(self) -> float:
        self._read()
        return self.power_mw()


@pytest.mark.parametrize("kind", [CountingBoard, SampledBoard])
def test_idle_and_load_are_told_apart(kind):
    board = kind()
    found = measure_energy(board, board.infer, idle_s=0.3, load_s=0.6)
    assert found.level == board.level
    assert found.idle_power_mw == pytest.approx(2000, rel=0.1)
    assert found.load_power_mw == pytest.approx(5000, rel=0.1)
    assert found.inferences > 20
    assert found.net_mj == pytest.approx(3000 * 0.6 / found.inferences, rel=0.3)


@pytest.mark.parametrize("fail_after", [0, 1, 12])
def test_a_sensor_that_fails_on_the_way_leaves_no_figure(fail_after):
    board = SampledBoard(fail_after=fail_after)
    found = measure_energy(board, board.infer, idle_s=0.1, load_s=0.1)
    assert found.level == "none"
    assert found.net_mj is None
    assert found.reason == "board failed while measuring: the wire fell off"


def test_a_model_that_fails_is_not_taken_for_the_sensor():
    def crash() -> None:
        raise DeviceError("the model failed")

    with pytest.raises(DeviceError, match="the model failed"):
        measure_energy(SampledBoard(), crash, idle_s=0.05, load_s=0.1)


def test_one_inference_at_least_is_run():
    board = CountingBoard()
    assert measure_energy(board, board.infer, idle_s=0.05, load_s=0.0).inferences == 1
