"""kill -9 at uniformly random times: always the old or the new version, whole, and no litter.

`scripts/kill-installs` does the same 10,000 times.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.crash_checks import BrokenDeviceError, check_disk, check_settled
from support.crash_world import live, make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"), model_bytes=100_000)


def kill_installs(out, *options):
    """Runs the campaign in a process of its own: one that forks should have no threads."""
    command = [sys.executable, "-m", "support.crash_kills", "--out", out, *options]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text())


def test_ten_installs_survive_kills(tmp_path):
    tally = kill_installs(tmp_path / "out", "--runs", "10", "--model-bytes", "100000")
    assert tally["runs"] == 10
    assert tally["kills"] >= 1


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_five_hundred_installs_survive_kills(tmp_path):
    tally = kill_installs(tmp_path / "out", "--runs", "500", "--seed", "500")
    assert tally["kills"] >= 450
    assert set(tally["left"]) == {"none", "old", "new"}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_installs_with_child_processes_survive_kills(tmp_path):
    options = ["--children", "--runs", "25", "--model-bytes", "100000"]
    tally = kill_installs(tmp_path / "out", *options)
    assert tally["runs"] == 25
    assert all(tally["victims"][victim] for victim in ("all", "the agent", "a child"))


def installed(world, state):
    """A device with the first release of the story active."""
    state.mkdir()
    live(world, state, world.releases[0].signed)
    return state / "packages"


def tear_model(packages, world):
    model = next(packages.glob("versions/*/model*"))
    model.chmod(0o644)
    model.write_bytes(model.read_bytes()[:-1])


def forget_switch(packages, world):
    (packages / "current").unlink()


def leave_file(packages, world):
    (packages / "staging" / "tmp1").write_bytes(b"")


def damage_database(packages, world):
    path = packages.parent / "state.sqlite"
    path.write_bytes(path.read_bytes()[:4096] + bytes(8192))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (tear_model, "not whole: model"),
        (forget_switch, "is reported active; None is on"),
        (leave_file, r"litter: \['packages/staging/tmp1'\]"),
        (damage_database, "the database"),
    ],
)
def test_the_checks_see_what_is_broken(world, tmp_path, harm, message):
    packages = installed(world, tmp_path / "device")
    check_settled(tmp_path / "device", world, ["active"])
    harm(packages, world)
    with pytest.raises(BrokenDeviceError, match=message):
        check_settled(tmp_path / "device", world, ["active"])


def test_an_empty_disk_is_whole(world, tmp_path):
    disk = check_disk(tmp_path, world)
    assert (disk.current, disk.previous, disk.row, disk.reports) == (None, None, None, ())
