"""One of two versions that are compared: its passes, its turns, and what they add up to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from trimtab_agent.bench import latency
from trimtab_agent.bench.plan import Plan
from trimtab_agent.bench.player import Player, Subject
from trimtab_agent.bench.process import run_child
from trimtab_agent.bench.protocol import TurnTimes
from trimtab_agent.contract.measurement import Energy, Environment, Measurement, Memory
from trimtab_agent.errors import MeasurementError, TrimtabError


class Side:
    """A version in a comparison. What it raises is what its process raised, or how that ended.

    Args:
        subject: What is measured.
        plan: Of the comparison; turns take their share of it.
        power_root: The folder that the power sensors' `sys` is in.
    """

    def __init__(self, subject: Subject, plan: Plan, power_root: Path) -> None:
        self._subject = subject
        self._plan = plan
        self._power_root = power_root
        self._first: Player | None = None
        self._kept: Player | None = None

    def weigh(self) -> Memory:
        """Does the memory pass, in a process of its own."""
        reply = run_child(self._subject.request("memory", self._plan, self._power_root))
        if reply.memory is None:
            raise MeasurementError(
                f"the memory pass of {self._subject.model_path} gave no figures: the versions "
                "are mixed"
            )
        return reply.memory

    def open(self) -> None:
        """Starts a process that does all turns from now on; without it each turn starts one."""
        self._kept = self._start()

    def time(self) -> TurnTimes:
        """Does a latency turn."""
        with self._player() as player:
            return player.time(self._plan.turn)

    def watch(self) -> Energy:
        """Does an energy turn."""
        with self._player() as player:
            return player.watch(self._plan.turn)

    def close(self) -> None:
        """Ends the process that was kept, if there is one."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def measurement(
        self, turns: Sequence[TurnTimes], memory: Memory, energy: Energy, around: Environment
    ) -> Measurement:
        """Returns the figures of all turns together; loading and warming up are the first start's.

        Args:
            turns: The latency turns that count, at least one.
            memory: Of the memory pass.
            energy: Of the energy turns.
            around: The machine.
        """
        first = self._first
        if first is None:
            raise AssertionError("turns come from a process that was started")
        timings = latency.Timings(
            first_ns=first.opened.first_ns,
            warmup_count=first.opened.warmup_count,
            raw_ns=[run_ns for turn in turns for run_ns in turn.raw_ns],
        )
        runtime = self._subject.runtime
        return Measurement(
            runtime=runtime.name,
            runtime_version=first.runtime_version,
            provider=first.provider,
            latency=latency.summarise(
                timings, load_ns=first.opened.load_ns, threads=runtime.threads
            ),
            memory=memory,
            energy=energy,
            environment=around,
        )

    @contextmanager
    def _player(self) -> Iterator[Player]:
        """Gives the process that was kept, or one for this turn alone."""
        if self._kept is not None:
            yield self._kept
            return
        with self._start() as player:
            yield player

    def _start(self) -> Player:
        """Starts a process; the first one's figures of loading are kept."""
        player = Player(self._subject.request("turns", self._plan, self._power_root))
        self._first = self._first or player
        return player


class RunningFailedError(Exception):
    """The running version could not be measured. Never leaves the comparison."""


class RunningSide(Side):
    """The version that runs now: its failure is kept apart from that of the new one."""

    def weigh(self) -> Memory:
        """See `Side`."""
        with _blaming_the_running_version():
            return super().weigh()

    def open(self) -> None:
        """See `Side`."""
        with _blaming_the_running_version():
            super().open()

    def time(self) -> TurnTimes:
        """See `Side`."""
        with _blaming_the_running_version():
            return super().time()

    def watch(self) -> Energy:
        """See `Side`."""
        with _blaming_the_running_version():
            return super().watch()


@contextmanager
def _blaming_the_running_version() -> Iterator[None]:
    try:
        yield
    except TrimtabError as error:
        raise RunningFailedError(str(error)) from error
