"""The state machine of an update: from an assignment to a report.

Each state says what has been reached; its work leads to the next.

    state      work                                        done        failed
    ---------  ------------------------------------------  ----------  -----------
    assigned   fetch the manifest through TUF, check that  fetching    refused
               it suits this device and fits its disk
    fetching   pull the chunks that are lacking            verifying   refused
    verifying  join them, check each file's hash           staged      refused
    staged     run the golden samples                      checked     refused
    checked    measure, in turns with the running version  measured    refused
    measured   hold it against the gates, run the hook     trial       refused
               `before_switch`, switch `current`
    trial      run the hook `after_switch` and, for the    committed   rolled_back
               probation time, the health command
    committed, refused, rolled_back: the end; there is a report

* What is reached is on the disk before the next work begins. After a kill the work of the state
  that was reached is done again; all of it can be.
* That an update fails is on the disk before anything is taken back. After a kill a version that
  has failed is not tried again.
* A lost connection, a document that is too old and a child process that died are no failures: the
  step is tried again, at growing intervals, and given up after `MAX_RETRIES`.
* Work that needs no network and was begun `MAX_ATTEMPTS` times without an end (the machine went
  down each time) fails, so that no package can keep a device from ever starting.
* A newer assignment ends the one under way. One with the counter of the last one does nothing;
  one with a lower counter is an attack or a mistake, and is refused without a report.
* Paused, nothing is begun that needs the network or switches. A trial goes on.
* What the disk refuses to remember is tried again; the device goes on with what it has.

docs/updates.md has this with every reason, and what a power cut does in each state.
"""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType
from typing import Literal

import msgspec

from trimtab_agent.backoff import full_jitter_s
from trimtab_agent.contract.chunks import sha256_hex
from trimtab_agent.contract.messages import Assignment, Failure, Progress, Report, State
from trimtab_agent.errors import (
    AttemptsError,
    DamagedError,
    ExpiredError,
    HealthError,
    HelperProcessError,
    HookError,
    InterruptedUpdateError,
    NetworkError,
    ReplayError,
    RollbackOrderedError,
    StorageError,
    SupersededError,
    TrimtabError,
)
from trimtab_agent.healing import Healer
from trimtab_agent.ports import Bench, Clock, Hooks, Source
from trimtab_agent.state import Findings, Memory, Pending
from trimtab_agent.store import Store, Version
from trimtab_agent.trial import Trial, health_of
from trimtab_agent.work import Work

_log = logging.getLogger(__name__)

NEXT: Mapping[State, State] = MappingProxyType(
    {
        "assigned": "fetching",
        "fetching": "verifying",
        "verifying": "staged",
        "staged": "checked",
        "checked": "measured",
        "measured": "trial",
        "trial": "committed",
    }
)
"""What each state's work leads to. States that are not here are the end."""

NETWORK_STATES: frozenset[State] = frozenset({"assigned", "fetching"})
HELD_STATES: frozenset[State] = NETWORK_STATES | {"measured"}
"""Whose work is not begun while the device is paused."""

FIRST_RETRY_S = 5.0
LONGEST_RETRY_S = 3600.0
MAX_RETRIES = 1500
"""Waits are half of `LONGEST_RETRY_S` in the mean: a package that cannot be fetched for a month."""
MAX_ATTEMPTS = 3
_MAX_OFFERS = 4

# What another try may mend. The package is not to blame.
_PASSING = (NetworkError, ExpiredError, HelperProcessError)

_OUTCOMES: Mapping[State, Literal["active", "rolled_back", "refused"]] = MappingProxyType(
    {"committed": "active", "rolled_back": "rolled_back", "refused": "refused"}
)


@dataclass(frozen=True)
class Step:
    """What `Updater.step` has come to.

    Attributes:
        wait_s: Seconds until the next step is due: 0 for at once, None for not before something
            happens.
        ended: The report of an update that is over; it is in the outbox.
        error: What was refused, or is in the way.
    """

    wait_s: float | None = 0.0
    ended: Report | None = None
    error: TrimtabError | None = None


def after_failure(state: State, *, switching: bool) -> State:
    """Returns how an update ends that failed in `state`."""
    return "rolled_back" if switching or state in ("trial", "committed") else "refused"


class Updater:
    """Drives one device's updates, a step at a time. Use it from one thread.

    Args:
        memory: What must survive a kill.
        store: The versions on disk.
        source: Where things come from.
        bench: What runs models.
        hooks: The device's commands.
        clock: Time.
        notify: Told of every state that is reached.
    """

    def __init__(
        self,
        *,
        memory: Memory,
        store: Store,
        source: Source,
        bench: Bench,
        hooks: Hooks,
        clock: Clock,
        notify: Callable[[Progress], None],
    ) -> None:
        self._memory = memory
        self._store = store
        self._source = source
        self._bench = bench
        self._hooks = hooks
        self._clock = clock
        self._notify = notify
        self._work = Work(store=store, source=source, bench=bench, hooks=hooks)
        self._healer = Healer(store, source, clock)
        self._offers: deque[bytes] = deque(maxlen=_MAX_OFFERS)
        self._offers_refused = 0
        self._storage_refused = 0
        self._due_s = {"offer": 0.0, "update": 0.0}
        self._trial: Trial | None = None
        self._attempting = False
        self._is_clean = False

    # What the agent calls

    def clean_up(self) -> None:
        """Mends and removes what a killed run left, before anything else is done.

        Raises:
            StorageError: The disk refuses; `step` tries it again.
        """
        self._store.recover(self._memory.manifest)
        if self._memory.pending:
            self._store.clear_staging()
        else:
            current = self._store.current
            if current and self._store.committed:
                # Only a database that was lost can leave a trial that nobody remembers.
                _log.error("%s was on trial: going back", current.manifest.target_name)
                self._store.rollback(current.sha256)
            self._healer.collect_garbage()
        self._is_clean = True

    def offer(self, signed: bytes) -> None:
        """Takes in a message that should be an assignment; `step` does what it says.

        Args:
            signed: The message as it came.
        """
        if not self.knows(signed) and signed not in self._offers:
            self._offers.append(signed)
            self._due_s["offer"] = 0.0

    def knows(self, signed: bytes) -> bool:
        """Whether this is the assignment that was accepted last.

        The broker delivers it again after every connection.
        """
        return sha256_hex(signed) == self._memory.message_sha256

    def reconnected(self) -> None:
        """Makes what the network was in the way of due at once."""
        self._due_s = dict.fromkeys(self._due_s, 0.0)

    def step(self, stop: Callable[[], bool] = lambda: False) -> Step:
        """Does one piece of what there is to do.

        Args:
            stop: Says whether to leave a transfer off, because something else came.

        Raises:
            DamagedError: What the database holds is not what was written: start again.
        """
        try:
            step = self._step(stop)
        except DamagedError:
            raise
        except StorageError as error:
            if self._trial is None:
                with contextlib.suppress(StorageError):
                    self._leave_off()
            wait_s = self._back_off(self._storage_refused)
            self._storage_refused += 1
            return Step(wait_s=wait_s, error=error)
        self._storage_refused = 0
        if not self._offers or self._memory.paused or step.wait_s == 0.0:
            return step
        left_s = max(self._due_s["offer"] - self._clock.monotonic_s(), 0.0)
        return replace(step, wait_s=left_s if step.wait_s is None else min(step.wait_s, left_s))

    def stop(self) -> None:
        """Says that the agent ends on purpose: what it was doing is not to blame."""
        self._leave_off()
        self._trial = None

    @property
    def paused(self) -> bool:
        """Whether nothing is begun that needs the network or switches."""
        return self._memory.paused

    def pause(self) -> None:
        """Holds before the next step that needs the network or switches; survives restarts."""
        self._memory.paused = True

    def resume(self) -> None:
        """Goes on."""
        self._memory.paused = False
        self.reconnected()

    def roll_back(self) -> Report | None:
        """Makes the version before the active one active again; what is under way is dropped.

        Returns:
            The report, or None if there is no version before and nothing under way.

        Raises:
            StorageError: The disk refuses; once it does not, the next `step` goes on.
        """
        report, pending = None, self._memory.pending
        if pending is not None:
            target = pending.assignment.target
            error = RollbackOrderedError(f"a command ended the update to {target}")
            report = self._fail(pending, error)
            if report.outcome == "rolled_back":
                return report
        current, before = self._store.current, self._store.previous
        if current is None or before is None:
            return report
        target = current.manifest.target_name
        message = f"a command ordered {before.manifest.target_name} in place of {target}"
        failure = Failure(state="committed", reason=RollbackOrderedError.reason, message=message)
        found = Findings(manifest=current.manifest_bytes, failure=failure)
        self._memory.reopen(target, "committed", found)
        reopened = self._memory.pending
        return self._finish(reopened) if reopened else report

    # One step

    def _step(self, stop: Callable[[], bool]) -> Step:
        if not self._is_clean:
            self.clean_up()
        pending = self._memory.pending
        if pending and pending.findings.failure:
            return Step(ended=self._finish(pending))
        if self._offers and not self._memory.paused and self._is_due("offer"):
            return self._examine(self._offers[0], pending)
        if pending is None:
            return Step(wait_s=self._healer.step(stop, may_fetch=not self._memory.paused))
        if pending.step == "trial":
            return self._go_on_with_trial(pending)
        if pending.step in HELD_STATES and self._memory.paused:
            return Step(wait_s=None)
        if not self._is_due("update"):
            return Step(wait_s=self._due_s["update"] - self._clock.monotonic_s())
        return self._advance(pending, stop)

    def _examine(self, signed: bytes, pending: Pending | None) -> Step:
        """Proves an offered assignment; a newer one ends what is under way."""
        now = self._clock.now()
        try:
            assignment = self._source.verify_assignment(signed, now=now)
            last = self._memory.counter
            if last is not None and assignment.counter < last:
                raise ReplayError(
                    f"the assignment has counter {assignment.counter}; {last} was accepted before"
                )
        except _PASSING as error:
            self._offers.rotate(-1)
            wait_s = self._back_off(self._offers_refused)
            self._offers_refused += 1
            self._due_s["offer"] = self._clock.monotonic_s() + wait_s
            return Step(error=error)
        except TrimtabError as error:
            self._offers.popleft()
            return Step(error=error)
        self._offers_refused = 0
        report = None
        if assignment.counter != last:
            if pending is not None:
                report = self._supersede(pending, assignment)
            self._memory.accept(
                assignment, message_sha256=sha256_hex(signed), started=_rfc3339(now)
            )
            self._forget_attempt()
            self._tell(assignment, "assigned")
        self._offers.popleft()
        return Step(ended=report)

    def _supersede(self, pending: Pending, newer: Assignment) -> Report:
        error = SupersededError(
            f"assignment {newer.counter}, of {newer.target}, took the place of "
            f"{pending.assignment.counter}"
        )
        return self._fail(pending, error)

    def _advance(self, pending: Pending, stop: Callable[[], bool]) -> Step:
        """Does the work of the state that was reached."""
        state, assignment = pending.step, pending.assignment
        attempts = self._begin(state)
        try:
            if attempts > MAX_ATTEMPTS:
                raise AttemptsError(
                    f"the device went down {MAX_ATTEMPTS} times while the update was {state!r}"
                )
            found = self._work.do(state, assignment, pending.findings, stop)
        except InterruptedUpdateError:
            self._leave_off()
            return Step()
        except _PASSING as error:
            return self._try_later(pending, error)
        except TrimtabError as error:
            return Step(ended=self._fail(pending, error))
        if state == "measured":
            # On the disk before `current` changes: whatever fails from here on is taken back.
            self._memory.keep(found)
            pending = replace(pending, findings=found)
            try:
                self._switch(pending)
            except StorageError as error:
                return Step(ended=self._fail(pending, error))
        self._memory.reach(NEXT[state], found)
        self._forget_attempt()
        self._tell(assignment, NEXT[state])
        return Step()

    def _begin(self, state: State) -> int:
        """Counts the attempt, unless the network has the say; returns how many with it."""
        if state in NETWORK_STATES:
            return 0
        attempts = self._memory.begin()
        self._attempting = True
        return attempts

    def _leave_off(self) -> None:
        """Takes the attempt back that is being made, if one is: nothing went down."""
        if self._attempting:
            self._attempting = False
            self._memory.leave_off()

    def _switch(self, pending: Pending) -> None:
        version = self._version(pending)
        if version is None:
            raise DamagedError(f"{pending.assignment.target} was damaged before the switch")
        self._store.switch(version)

    def _try_later(self, pending: Pending, error: TrimtabError) -> Step:
        """Leaves the work of a state for later; gives it up after very many tries."""
        self._leave_off()
        retries = self._memory.retry()
        limit = MAX_RETRIES if isinstance(error, (NetworkError, ExpiredError)) else MAX_ATTEMPTS
        if retries > limit:
            return Step(ended=self._fail(pending, error))
        wait_s = self._back_off(retries - 1)
        self._due_s["update"] = self._clock.monotonic_s() + wait_s
        self._tell(pending.assignment, pending.step, f"{error}; tried again in {wait_s:.0f} s")
        return Step(wait_s=wait_s, error=error)

    def _go_on_with_trial(self, pending: Pending) -> Step:
        version = self._version(pending)
        if version is None:
            error = DamagedError(f"{pending.assignment.target} was damaged while on trial")
            return Step(ended=self._fail(pending, error))
        try:
            wait_s = self._trial_of(pending).go_on(version)
        except (AttemptsError, HookError, HealthError) as error:
            return Step(ended=self._fail(self._newest(pending), error))
        if wait_s is not None:
            return Step(wait_s=wait_s)
        self._store.commit()
        return Step(ended=self._end(self._newest(pending), "committed"))

    def _trial_of(self, pending: Pending) -> Trial:
        """Returns the trial that is under way; a new one after a start."""
        if self._trial is None:
            self._trial = Trial(
                self._memory, self._hooks, self._clock, pending, max_attempts=MAX_ATTEMPTS
            )
            self._attempting = True
        return self._trial

    # The end of an update

    def _fail(self, pending: Pending, error: TrimtabError) -> Report:
        """Notes that an update fails, then takes back what it did."""
        _log.warning("%s ended while %s: %s", pending.assignment.target, pending.step, error)
        failure = Failure(state=pending.step, reason=error.reason, message=str(error))
        found = msgspec.structs.replace(pending.findings, failure=failure)
        self._memory.reach(pending.step, found)
        self._forget_attempt()
        return self._finish(replace(pending, findings=found))

    def _finish(self, pending: Pending) -> Report:
        """Takes back what a failed update did; the version before is active afterwards."""
        found = pending.findings
        end = after_failure(pending.step, switching=found.switching)
        if end == "rolled_back":
            assert found.manifest is not None, "nothing is switched to without one"
            self._store.rollback(sha256_hex(found.manifest))
            found = self._after_rollback(found)
        return self._end(replace(pending, findings=found), end)

    def _after_rollback(self, found: Findings) -> Findings:
        """Runs the hook; its own failure is told, and changes nothing."""
        if self._memory.begin() > MAX_ATTEMPTS:
            return found  # it takes the device down each time
        try:
            self._hooks.run("after_rollback", self._store.current)
        except HookError as error:
            _log.warning("%s", error)
            failure = found.failure
            assert failure is not None
            message = f"{failure.message}; {error}"
            return msgspec.structs.replace(
                found, failure=msgspec.structs.replace(failure, message=message)
            )
        return found

    def _end(self, pending: Pending, end: State) -> Report:
        """Writes the report into the outbox, which ends the update."""
        active, found, assignment = self._store.current, pending.findings, pending.assignment
        report = Report(
            id=str(uuid.uuid4()),
            device=assignment.device,
            counter=assignment.counter,
            target=assignment.target,
            target_sha256=None if found.manifest is None else sha256_hex(found.manifest),
            trial=assignment.trial,
            outcome=_OUTCOMES[end],
            active=active.manifest.target_name if active else None,
            failure=found.failure,
            transfer=found.transfer,
            golden=found.golden,
            measurement=found.measurement,
            comparison=found.comparison,
            gates=found.gates,
            health=health_of(found.trial),
            inventory=self._bench.inventory(),
            started=pending.started,
            finished=_rfc3339(self._clock.now()),
        )
        self._memory.settle(report)
        self._forget_attempt()
        self._tell(assignment, end, found.failure.message if found.failure else "")
        # After a transfer that the network broke, the chunks that came are worth keeping.
        if not (found.failure and found.failure.state in NETWORK_STATES):
            self._healer.collect_garbage()
        return report

    # Small things

    def _version(self, pending: Pending) -> Version | None:
        manifest = pending.findings.manifest
        return None if manifest is None else self._store.find(sha256_hex(manifest))

    def _newest(self, pending: Pending) -> Pending:
        """Returns an update with what its work has added to the database."""
        return self._memory.pending or pending

    def _forget_attempt(self) -> None:
        self._attempting, self._trial = False, None
        self._due_s["update"] = 0.0

    def _is_due(self, what: str) -> bool:
        return self._clock.monotonic_s() >= self._due_s[what]

    def _back_off(self, failures: int) -> float:
        return full_jitter_s(failures, first_s=FIRST_RETRY_S, longest_s=LONGEST_RETRY_S)

    def _tell(self, assignment: Assignment, state: State, detail: str = "") -> None:
        self._notify(
            Progress(
                device=assignment.device,
                counter=assignment.counter,
                target=assignment.target,
                state=state,
                detail=detail,
            )
        )


def _rfc3339(time: datetime) -> str:
    """Returns a UTC time to the second, as every message has it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")
