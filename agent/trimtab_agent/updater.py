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
from collections.abc import Callable

import msgspec

from trimtab_agent.contract.chunks import sha256_hex
from trimtab_agent.contract.messages import Assignment, Failure, Progress, Report, State
from trimtab_agent.ending import Ending, rfc3339
from trimtab_agent.errors import (
    AttemptsError,
    DamagedError,
    ExpiredError,
    HealthError,
    HookError,
    InterruptedUpdateError,
    NetworkError,
    RollbackOrderedError,
    StorageError,
    SupersededError,
    TrimtabError,
)
from trimtab_agent.healing import Healer
from trimtab_agent.offers import Offers
from trimtab_agent.ports import Bench, Clock, Hooks, Source
from trimtab_agent.state import Findings, Memory, Pending
from trimtab_agent.states import (
    HELD_STATES,
    MAX_ATTEMPTS,
    MAX_RETRIES,
    NETWORK_STATES,
    NEXT,
    PASSING,
    back_off_s,
)
from trimtab_agent.store import Store
from trimtab_agent.trial import Trial
from trimtab_agent.version import Version
from trimtab_agent.work import Work

_log = logging.getLogger(__name__)


class Step(msgspec.Struct, frozen=True):
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
        self._ending = Ending(
            memory=memory, store=store, bench=bench, hooks=hooks, clock=clock, tell=self._tell
        )
        self._healer = Healer(store, source, clock)
        self._offers = Offers(memory, source, clock)
        self._due_s = 0.0
        self._storage_failures = 0
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
        """Takes in a message that should be an assignment; `step` does what it says."""
        self._offers.add(signed)

    def knows(self, signed: bytes) -> bool:
        """Whether this is the assignment that was accepted last.

        The broker delivers it again after every connection.
        """
        return self._offers.knows(signed)

    def would_prove(self, signed: bytes) -> bool:
        """Whether this is news, and strangers have not used up what may be proven now."""
        return self._offers.would_prove(signed)

    def reconnected(self) -> None:
        """Makes what the network was in the way of due at once."""
        self._due_s = 0.0
        self._offers.try_now()

    def step(self, stop: Callable[[], bool] = lambda: False) -> Step:
        """Does one piece of what there is to do.

        Args:
            stop: Says whether to leave a transfer off, because something else came.

        Raises:
            DamagedError: What the database holds is not what was written: start again.
        """
        try:
            step = self._step(stop)
            offer_s = None if self._memory.paused else self._offers.wait_s()
        except DamagedError:
            raise
        except StorageError as error:
            if self._trial is None:
                with contextlib.suppress(StorageError):
                    self._leave_off()
            self._storage_failures += 1
            return Step(wait_s=back_off_s(self._storage_failures - 1), error=error)
        self._storage_failures = 0
        waits_s = [wait_s for wait_s in (step.wait_s, offer_s) if wait_s is not None]
        return msgspec.structs.replace(step, wait_s=min(waits_s, default=None))

    def note(self, detail: str) -> None:
        """Tells the host why the update under way does not go on at once."""
        pending = self._memory.pending
        if pending is not None:
            self._tell(pending.assignment, pending.step, detail)

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
            CallerError: What was assigned is not known any more.
            StorageError: The disk refuses; once it does not, the next `step` goes on.
        """
        report, pending = None, self._memory.pending
        if pending is not None and pending.findings.failure:
            report = self._over(self._ending.finish(pending))  # that has its own reason
        elif pending is not None:
            target = pending.assignment.target
            error = RollbackOrderedError(f"a command ended the update to {target}")
            report = self._fail(pending, error)
        if report is not None and report.outcome == "rolled_back":
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
        return self._over(self._ending.finish(reopened)) if reopened else report

    # One step

    def _step(self, stop: Callable[[], bool]) -> Step:
        if not self._is_clean:
            self.clean_up()
        pending, paused = self._memory.pending, self._memory.paused
        if pending and pending.findings.failure:
            return Step(ended=self._over(self._ending.finish(pending)))
        if not paused and self._offers.wait_s() == 0.0:
            return self._examine(pending)
        if pending is None:
            return Step(wait_s=self._healer.step(stop, may_fetch=not paused))
        if pending.step == "trial":
            return self._go_on_with_trial(pending)
        if pending.step in HELD_STATES and paused:
            return Step(wait_s=None)
        wait_s = self._due_s - self._clock.monotonic_s()
        return Step(wait_s=wait_s) if wait_s > 0 else self._advance(pending, stop)

    def _examine(self, pending: Pending | None) -> Step:
        """Proves an offered assignment; a newer one ends what is under way."""
        try:
            newer = self._offers.examine()
        except TrimtabError as error:
            return Step(error=error)
        if newer is None:
            return Step()
        signed, assignment = newer
        report = None if pending is None else self._supersede(pending, assignment)
        started = rfc3339(self._clock.now())
        self._memory.accept(assignment, message_sha256=sha256_hex(signed), started=started)
        self._offers.take(signed)
        self._tell(assignment, "assigned")
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
        except PASSING as error:
            return self._try_later(pending, error)
        except TrimtabError as error:
            return Step(ended=self._fail(pending, error))
        if state == "measured":
            # On the disk before `current` changes: whatever fails from here on is taken back.
            self._memory.keep(found)
            pending = msgspec.structs.replace(pending, findings=found)
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
        wait_s = back_off_s(retries - 1)
        self._due_s = self._clock.monotonic_s() + wait_s
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
        return Step(ended=self._over(self._ending.commit(self._newest(pending))))

    def _trial_of(self, pending: Pending) -> Trial:
        """Returns the trial that is under way; a new one after a start."""
        if self._trial is None:
            self._trial = Trial(
                self._memory, self._hooks, self._clock, pending, max_attempts=MAX_ATTEMPTS
            )
            self._attempting = True
        return self._trial

    # Small things

    def _fail(self, pending: Pending, error: TrimtabError) -> Report:
        return self._over(self._ending.fail(pending, error))

    def _over(self, report: Report) -> Report:
        """Tidies up after an update."""
        self._forget_attempt()
        # After a transfer that ended early, the chunks that came are worth keeping.
        if not (report.failure and report.failure.state in NETWORK_STATES):
            self._healer.collect_garbage()
        return report

    def _version(self, pending: Pending) -> Version | None:
        manifest = pending.findings.manifest
        return None if manifest is None else self._store.find(sha256_hex(manifest))

    def _newest(self, pending: Pending) -> Pending:
        """Returns an update with what its work has added to the database."""
        return self._memory.pending or pending

    def _forget_attempt(self) -> None:
        self._attempting, self._trial, self._due_s = False, None, 0.0

    def _leave_off(self) -> None:
        """Takes the attempt back that is being made, if one is: nothing went down."""
        if self._attempting:
            self._attempting = False
            self._memory.leave_off()

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
