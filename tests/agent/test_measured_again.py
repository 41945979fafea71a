"""What misses a limit is measured again: chance stops nothing, a slow version is stopped."""

from __future__ import annotations

import msgspec
import pytest

from support.manifests import small_package
from support.updates import MEASUREMENT, Device, World


class Unlucky(World):
    """A world whose first comparisons are of a version three times as slow."""

    def __init__(self, unlucky: int) -> None:
        super().__init__()
        self.left = unlucky

    def compare(self, version, running):
        slow = msgspec.structs.replace(MEASUREMENT.latency, p50_us=4500.0)
        if self.left:
            self.measurements[version.manifest.target_name] = msgspec.structs.replace(
                MEASUREMENT, latency=slow
            )
        else:
            self.measurements.clear()
        self.left = max(0, self.left - 1)
        return super().compare(version, running)


@pytest.mark.parametrize(
    ("unlucky", "outcome", "comparisons"), [(0, "active", 1), (1, "active", 2), (2, "refused", 2)]
)
def test_what_misses_a_limit_is_measured_again(tmp_path, unlucky, outcome, comparisons):
    device = Device(tmp_path, world=Unlucky(unlucky))
    device.update(1, small_package("1"))
    report = device.update(2, small_package("2", model=b"other" * 5000))
    assert report.outcome == outcome
    assert device.world.calls.count("compare") == comparisons
    ratio = next(gate for gate in report.gates if gate.gate == "latency")
    assert ratio.value == pytest.approx(3.0 if outcome == "refused" else 1.0)
    device.close()
