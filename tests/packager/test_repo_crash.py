"""Killed at any moment, or used by two at once, a repository stays whole."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from support.killed_repository import ACTIONS
from support.repositories import Device
from trimtab.package import redo
from trimtab.package.rotation import Rotation
from trimtab.package.sign import Repository
from trimtab_agent.errors import CallerError

TESTS = Path(__file__).parents[1]


def kill_everywhere(path: Path, *actions: str) -> int:
    """Returns how many kills the repository outlived."""
    command = [sys.executable, "-m", "support.killed_repository", path, *actions]
    done = subprocess.run(
        command, cwd=TESTS, env=os.environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_change_that_was_decided_is_finished_by_whoever_comes_next(tmp_path, monkeypatch):
    class KilledError(BaseException):
        pass

    def die(_: Path) -> None:
        raise KilledError

    repository = Repository.init(tmp_path / "repo")
    device = Device(tmp_path / "device", repository.root)
    device.update(repository)
    with monkeypatch.context() as patch:
        patch.setattr(redo, "finish", lambda path: die(path) if (path / "redo").exists() else None)
        with pytest.raises(KilledError):
            repository.ceremony.rotate(Rotation(role="timestamp"))
    assert (tmp_path / "repo/metadata/redo").is_dir()
    again = Repository.open(tmp_path / "repo")
    assert again.root_version == 2
    device.update(again)


@pytest.mark.slow
@pytest.mark.parametrize("action", sorted(ACTIONS))
def test_killed_at_any_operation_of_a_change_devices_follow(action, tmp_path):
    assert kill_everywhere(tmp_path / "work", action) >= 8


def test_writers_at_the_same_time_take_turns(tmp_path):
    path = tmp_path / "repo"
    repository = Repository.init(path)

    def release(number: int) -> None:
        for version in range(5):
            Repository.open(path).add_target(f"model{number}-{version}.json", b"x")

    threads = [threading.Thread(target=release, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        Repository.open(path).ceremony.rotate(Rotation(role="timestamp"))
    for thread in threads:
        thread.join()
    assert len(repository.targets()) == 3 * 5 + 1
    Device(tmp_path / "device", repository.root).update(repository)


def test_counters_skip_ahead_of_what_an_old_backup_has_forgotten(tmp_path):
    repository = Repository.init(tmp_path / "repo")
    repository.add_target("demo-1.json", b"one")
    for _ in range(3):
        repository.orders.new_assignment("dev-1", "demo-1.json")
    assert repository.ceremony.status().counter == 3
    assert repository.ceremony.skip_counters(1000) == 1003
    assert repository.orders.new_assignment("dev-1", "demo-1.json").counter == 1004
    assert repository.orders.new_assignment("never-seen", "demo-1.json").counter == 1004
    assert repository.orders.new_assignment("dev-1", "demo-1.json").counter == 1005
    assert repository.ceremony.skip_counters(10) == 1015
    with pytest.raises(CallerError, match="counters only rise: 0 is not above zero"):
        repository.ceremony.skip_counters(0)
