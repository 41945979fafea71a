"""Kills installs at uniformly random times, and checks what is left, again and again.

The parent has the agent's modules loaded and forks one process for each life of the device, so a
life costs an install and no start of an interpreter. Each run takes the next release of the story
on the same disk: one life that is killed, perhaps some whose recovery is killed too, and one that
is left alone and must end the update. After every death the disk is checked.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from support.crash_checks import BrokenDeviceError, Disk, check_disk, check_settled
from support.crash_world import STORY, Release, World, live, make_world

MODEL_BYTES = 1 << 20
KILL_SPAN = 1.05
"""Kills fall into [0, 1.05 x the time of a whole life], so a few come just after its end."""

RECOVERY_KILLED = 0.3
"""Share of deaths after which the next life is killed as well."""

CALIBRATED_EVERY = 20
"""Devices after which the time of an undisturbed life is measured again."""

ATTEMPTS = 3
"""Deaths in one state before the agent gives the package up (`updater.MAX_ATTEMPTS`)."""


@dataclass
class Tally:
    """What has been counted so far; written as JSON.

    Attributes:
        runs: Installs that were killed at least once.
        kills: Deaths by SIGKILL, with those of recoveries.
        recovery_kills: Those that hit a life which had to recover.
        ended_before: Kills that came after the life had ended by itself.
        killed_in: Kills by the state that the database held.
        left: Deaths by what was active after them: `none`, `old` or `new`.
        given_up: Updates refused because the device went down too often in one state.
        victims: Kills by what was killed.
    """

    seed: int
    runs: int = 0
    kills: int = 0
    recovery_kills: int = 0
    ended_before: int = 0
    given_up: int = 0
    killed_in: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    victims: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


def fork_life(life: Callable[[], None], errors: Path) -> int:
    """Starts `life` in a process group of its own and returns its id.

    Args:
        life: What the child does; it ends when this returns.
        errors: Where a traceback goes if it raises.
    """
    child = os.fork()
    if child:
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(child, child)  # here too: whichever of the two comes first
        return child
    status = 1
    try:
        os.setpgid(0, 0)
        logging.disable()
        life()
        status = 0
    except BaseException:  # noqa: BLE001 - a child must not run on as the parent's copy
        errors.write_text(traceback.format_exc())
    finally:
        os._exit(status)


def kill_group(child: int) -> bool:
    """Kills a life and its children; says whether it was still alive."""
    ended, _ = os.waitpid(child, os.WNOHANG)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if not ended:
        _, status = os.waitpid(child, 0)
        return os.WIFSIGNALED(status)
    return False


def kill_agent(life: int) -> bool:
    """Kills the agent and leaves its children to themselves."""
    ended, _ = os.waitpid(life, os.WNOHANG)
    if ended:
        return False
    os.kill(life, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(life, 0)[1])


def kill_child(life: int) -> bool:
    """Kills one of the agent's children, the next one if there is none, and lets the agent end."""
    killed = False
    while os.waitpid(life, os.WNOHANG)[0] == 0:
        if not killed:
            for child in psutil.Process(life).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
                    killed = True
        time.sleep(0.002)
    return killed


VICTIMS = ("all", "the agent", "a child")
_KILLS: dict[str, Callable[[int], bool]] = {
    "all": kill_group,
    "the agent": kill_agent,
    "a child": kill_child,
}


class Campaign:
    """One device after the other is taken through the story and killed on the way.

    Args:
        world: The story.
        directory: Scratch room on the file system to be tested.
        seed: Decides every moment of a kill.
        children: Whether lives have the agent's child processes. Then a kill hits all of a life's
            processes, the agent alone, or one of its children alone.
    """

    def __init__(self, world: World, directory: Path, *, seed: int, children: bool = False) -> None:
        self._children = children
        self._world = world
        self._state = directory / "device"
        self._errors = directory / "error.txt"
        self._seed = seed
        self._rounds: list[list[float]] = []

    def _calibrate(self) -> None:
        """Measures how long each release takes when nothing disturbs it."""
        self._wipe()
        self._rounds.append([self._undisturbed(release) for release in self._world.releases])

    def _life_s(self, release: Release) -> float:
        """Returns the median time of a life that installs this release."""
        return statistics.median(times[release.counter - 1] for times in self._rounds)

    def _wipe(self) -> None:
        shutil.rmtree(self._state, ignore_errors=True)
        self._state.mkdir(parents=True)

    def device(self, number: int, tally: Tally) -> None:
        """Takes device `number` from an empty disk through the story, with a kill in each install.

        Raises:
            BrokenDeviceError: A crash left what must not be; tells which run, and keeps the disk.
        """
        if len(self._rounds) <= number // CALIBRATED_EVERY:
            self._calibrate()
        chance = random.Random(f"{self._seed}/{number}")
        self._wipe()
        ends: list[str] = []
        for release in self._world.releases:
            try:
                self._install(release, ends, chance, tally)
            except BrokenDeviceError as error:
                raise BrokenDeviceError(
                    f"seed {self._seed}, device {number}, {release.label}: {error}; "
                    f"the disk is kept in {self._state}"
                ) from error

    def _install(
        self, release: Release, ends: list[str], chance: random.Random, tally: Tally
    ) -> None:
        """One run: kills, checks, a life that is left alone, and the last check."""
        deaths = 0
        while deaths == 0 or chance.random() < RECOVERY_KILLED:
            deaths += self._killed_life(release, chance, tally, recovering=deaths > 0)
            if deaths == 0:
                break  # it ended before its time came: nothing is left to recover
        self._undisturbed(release)
        disk = check_disk(self._state, self._world)
        ends.append(_end_of(release, disk, deaths, tally))
        check_settled(self._state, self._world, ends)
        tally.runs += 1

    def _killed_life(
        self, release: Release, chance: random.Random, tally: Tally, *, recovering: bool
    ) -> bool:
        """Starts a life, kills it, and checks the disk. Says whether it died of that."""
        span_s = KILL_SPAN * self._life_s(release)
        child = self._start(release)
        time.sleep(chance.uniform(0, span_s))
        victim = chance.choice(VICTIMS) if self._children else "all"
        died = _KILLS[victim](child)
        self._raise_error()
        tally.victims[victim] += died
        disk = check_disk(self._state, self._world)
        if disk.torn_chunks:
            raise BrokenDeviceError(f"a kill tore {disk.torn_chunks} chunks")
        if victim == "a child":
            tally.ended_before += not died
            return False  # the agent lives, and ends the update itself
        tally.kills += died
        tally.ended_before += not died
        tally.recovery_kills += died and recovering
        if died:
            tally.killed_in[_state_of(disk, release)] += 1
            tally.left[_left(disk, release)] += 1
        return died

    def _start(self, release: Release) -> int:
        def life() -> None:
            live(self._world, self._state, release.signed, children=self._children)

        return fork_life(life, self._errors)

    def _undisturbed(self, release: Release) -> float:
        """Lets a life end by itself, and returns how long it took."""
        start = time.monotonic()
        _, status = os.waitpid(self._start(release), 0)
        self._raise_error()
        if status != 0:
            raise BrokenDeviceError(f"a life that nobody killed ended with status {status}")
        return time.monotonic() - start

    def _raise_error(self) -> None:
        if self._errors.exists():
            error = self._errors.read_text()
            self._errors.unlink()
            raise BrokenDeviceError(f"the agent failed:\n{error}")


def _end_of(release: Release, disk: Disk, deaths: int, tally: Tally) -> str:
    """Returns how the release has ended, if that is allowed after so many deaths."""
    outcome = disk.reports[-1][1] if disk.reports else "no report"
    if outcome != release.end and deaths >= ATTEMPTS:
        tally.given_up += 1
        return outcome
    return release.end


def _state_of(disk: Disk, release: Release) -> str:
    """Returns the state in which an install was killed, as the database knew it."""
    if disk.row is None or disk.row.counter != release.counter:
        return "before it was accepted"
    return "ended" if disk.row.settled else disk.row.step


def _left(disk: Disk, release: Release) -> str:
    if disk.current is None:
        return "none"
    return "new" if disk.current == release.sha256 else "old"


def devices(campaign: Campaign, tally: Tally, *, runs: int) -> Iterator[Tally]:
    """Runs the campaign from where `tally` stands, and yields it after every device."""
    while tally.runs < runs:
        start = time.monotonic()
        campaign.device(tally.runs // len(STORY), tally)
        tally.seconds += time.monotonic() - start
        yield tally


def table(tally: Tally) -> str:
    """Returns the summary for people."""
    victims = ", ".join(f"{name} {count}" for name, count in sorted(tally.victims.items()))
    lines = [
        f"installs killed         {tally.runs}",
        f"kills                   {tally.kills} ({tally.recovery_kills} of them in a recovery)",
        f"came after the end      {tally.ended_before}",
        f"updates given up        {tally.given_up} (killed {ATTEMPTS} times or more)",
        f"killed                  {victims}",
        f"seed, seconds           {tally.seed}, {tally.seconds:.0f}",
        "active after a kill     " + ", ".join(f"{k} {n}" for k, n in sorted(tally.left.items())),
        "killed in state",
        *(f"  {name:22}{count:6}" for name, count in tally.killed_in.most_common()),
        "torn versions 0, lost updates 0, litter 0",
    ]
    return "\n".join(lines)


def _resume(out: Path, seed: int) -> Tally:
    """Returns the tally that an earlier start with the same seed left, or a new one."""
    if out.exists():
        values = json.loads(out.read_text())
        if values["seed"] == seed:
            counters = {name: Counter(values[name]) for name in ("killed_in", "left", "victims")}
            return Tally(**{**values, **counters})
    return Tally(seed=seed)


def main() -> None:
    """The command `scripts/kill-installs`."""
    parser = argparse.ArgumentParser(prog="scripts/kill-installs", description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000, help="installs to kill (10000)")
    parser.add_argument("--seed", type=int, default=1, help="decides the moments (1)")
    parser.add_argument("--model-bytes", type=int, default=MODEL_BYTES, help="of a model (1 MiB)")
    parser.add_argument("--children", action="store_true", help="real child processes, also killed")
    parser.add_argument("--out", type=Path, default=Path("kill-installs.json"))
    arguments = parser.parse_args()
    tally = _resume(arguments.out, arguments.seed)
    scratch = Path(tempfile.mkdtemp(prefix="trimtab-kills-"))
    world = make_world(scratch, model_bytes=arguments.model_bytes)
    campaign = Campaign(world, scratch, seed=arguments.seed, children=arguments.children)
    for _ in devices(campaign, tally, runs=arguments.runs):
        arguments.out.write_text(json.dumps(vars(tally), indent=1))
        sys.stderr.write(f"\r{tally.runs} of {arguments.runs} installs, {tally.kills} kills")
    sys.stderr.write("\n")
    sys.stdout.write(table(tally) + "\n")
    shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
