"""`trimtab-agent bench --against previous`: the active version and the one before, in turns."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.host import real_package
from support.measurements import a_comparison, a_measurement
from trimtab_agent.config import Config, MeasureConfig
from trimtab_agent.errors import CallerError
from trimtab_agent.output import BenchResult, TextOutput
from trimtab_agent.service import bench_active


def config_of(folder: Path) -> Config:
    return Config(
        device="dev-1",
        profile="generic-x86-64",
        broker="mqtt://localhost",
        state_dir=str(folder / "state"),
        root=str(folder / "1.root.json"),
        measure=MeasureConfig(duration_s=0.2),
    )


def install(folder: Path, version: str, link: str) -> None:
    """Lays a version out as the store does."""
    package = real_package(folder / f"made-{version}", version)
    packages = folder / "state" / "packages"
    place = packages / "versions" / package.sha256
    (place / "model").mkdir(parents=True)
    (place / "manifest.json").write_bytes(package.manifest_bytes)
    made = folder / f"made-{version}"
    (place / "golden.npz").write_bytes((made / "golden.npz").read_bytes())
    (place / package.manifest.runtime.model).write_bytes((made / "model.tflite").read_bytes())
    (packages / link).symlink_to(place)


@pytest.mark.slow
def test_compares_the_active_version_with_the_one_before(tmp_path):
    install(tmp_path, "1", "previous")
    install(tmp_path, "2", "current")
    found = bench_active(config_of(tmp_path), operators=False, against_previous=True)
    assert (found.target, found.comparison.target) == ("model-2.json", "model-1.json")
    assert found.comparison.latency_interval is not None


def test_there_must_be_a_version_before(tmp_path):
    install(tmp_path, "1", "current")
    with pytest.raises(CallerError, match=r"dev-1 has no version before model-1\.json to compare"):
        bench_active(config_of(tmp_path), operators=False, against_previous=True)


def test_the_ratios_in_a_line(capsys):
    comparison = a_comparison(latency=(1.042, (0.98, 1.1)), memory=0.5)
    result = BenchResult(target="model-2.json", measurement=a_measurement(), comparison=comparison)
    TextOutput().bench(result)
    assert capsys.readouterr().out.splitlines()[1] == (
        "as a multiple of model-1.json: 95th percentile of latency 1.04 (0.98 to 1.1), "
        "peak memory 0.5 (12 pairs of turns, 0 disturbed)"
    )
