"""Kills a process at every change it makes to the disk, and looks at what is left.

    python -m support.killed_repository FOLDER ACTION...

A child repeats the same change to the same repository and dies at its first, second, third ...
operation on the disk, as `kill -9` would have it: nothing is unwound. It is a program of its own,
so that it forks from a process without threads.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from support.repositories import Device
from trimtab.errors import StagedError
from trimtab.package.keys import KeySources, NewKey
from trimtab.package.new_repository import KeyPlan
from trimtab.package.passphrases import Passphrases
from trimtab.package.rotation import Rotation
from trimtab.package.sign import Repository
from trimtab_agent.errors import CallerError

KILLED = 9
_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "open"}

ACTIONS: dict[str, Callable[[Repository], object]] = {
    "release": lambda repository: repository.add_target("demo-2.json", b"two"),
    "rotate root": lambda repository: repository.ceremony.rotate(
        Rotation(role="root", threshold=1)
    ),
    "rotate targets": lambda repository: repository.ceremony.rotate(
        Rotation(role="targets", add=NewKey(name="tina"), remove=["targets"])
    ),
    "rotate timestamp": lambda repository: repository.ceremony.rotate(
        Rotation(role="timestamp", add=NewKey(name="tim"), remove=["timestamp"])
    ),
    "rotate assignment": lambda repository: repository.ceremony.rotate(
        Rotation(role="assignment", add=NewKey(name="anna"), revoke=True)
    ),
    "refresh": lambda repository: repository.refresh_timestamp(),
    "release onto staged": lambda repository: repository.add_target("demo-2.json", b"two"),
    "sign": lambda repository: repository.ceremony.sign(),
}


def main(folder: Path, names: Sequence[str]) -> int:
    """Returns how many kills there were; raises at the first repository that is not well."""
    kills = 0
    for name in names:
        action = ACTIONS[name]
        start = folder / "start"
        prepare(start, name)
        for operation in range(1, 1000):
            path = folder / "killed"
            shutil.rmtree(path, ignore_errors=True)
            shutil.copytree(start, path)
            code = run_and_die(path / "repo", action, operation)
            if code != KILLED:
                assert code == 0, f"{name} failed without being killed"
                break
            kills += 1
            try:
                check(path, action)
            except Exception as error:
                raise AssertionError(f"{name}, killed at operation {operation}: {error}") from error
        shutil.rmtree(start)
    return kills


def prepare(path: Path, action: str) -> None:
    """Makes a repository with two devices, one of which has seen nothing yet."""
    path.mkdir(parents=True)
    repository = Repository.init(path / "repo", plan=KeyPlan(), sources=sources())
    repository.add_target("demo-1.json", b"one")
    Device(path / "device", repository.root).update(repository)
    if action == "release onto staged":
        away = path / "away.pem"
        key = path / "repo" / "keys" / "targets.pem"
        key.rename(away)
        with contextlib.suppress(StagedError):
            repository.add_target("demo-4.json", b"four")
        away.rename(key)
    if action == "sign":
        # Complete, and not in force for want of the timestamp's key at the time.
        away = path / "away.pem"
        key = path / "repo" / "keys" / "timestamp.pem"
        key.rename(away)
        repository.ceremony.renew("root")
        away.rename(key)


def sources() -> KeySources:
    return KeySources(passphrases=Passphrases("secret"))


def run_and_die(path: Path, action: Callable[[Repository], object], operation: int) -> int:
    """Runs the action in a child that dies at its n-th change to the disk."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        left = operation
        inside = str(path)

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            if event not in _CHANGES or not str(arguments[0]).startswith(inside):
                return
            if event == "open" and not int(arguments[2]) & (os.O_WRONLY | os.O_RDWR):
                return
            left -= 1
            if left == 0:
                os._exit(KILLED)

        repository = Repository.open(path, sources=sources())
        sys.addaudithook(hook)
        action(repository)
        code = 0
    finally:
        os._exit(code)


def check(path: Path, action: Callable[[Repository], object]) -> None:
    """Both devices take what is there; the action can be done again; no litter stays."""
    repository = Repository.open(path / "repo", sources=sources())
    repository.ceremony.status()
    for device in (path / "device", path / "new"):
        assert Device(device, repository.root).target(repository, "demo-1.json") == b"one"
    try:
        action(repository)
    except CallerError:
        # It was killed when it was as good as done: a key of that name is there already.
        repository.ceremony.sign()
    for device in (path / "device", path / "new", path / "newer"):
        assert Device(device, repository.root).target(repository, "demo-1.json") == b"one"
    repository.add_target("demo-3.json", b"three")
    repository.orders.sign_message(b"payload", b"context")
    litter = [p for p in path.rglob("*") if p.name.startswith(".") or p.name == "redo"]
    assert not litter, litter
    assert not repository.ceremony.status().staged


if __name__ == "__main__":
    sys.stdout.write(f"{main(Path(sys.argv[1]), sys.argv[2:])}\n")
