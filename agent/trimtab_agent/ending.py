"""The end of an update: what it did is kept or taken back, and a report is written.

That an update fails is on the disk before anything is taken back, and what is taken back can be
done again. So a kill in the middle changes nothing: the next start goes on here.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Literal, Protocol

import msgspec

from trimtab_agent.contract.chunks import sha256_hex
from trimtab_agent.contract.messages import Assignment, Failure, Report, State
from trimtab_agent.errors import HookError, TrimtabError
from trimtab_agent.ports import Bench, Clock, Hooks
from trimtab_agent.state import Findings, Memory, Pending
from trimtab_agent.states import MAX_ATTEMPTS, after_failure
from trimtab_agent.store import Store
from trimtab_agent.trial import health_of

_log = logging.getLogger(__name__)

_OUTCOMES: Mapping[State, Literal["active", "rolled_back", "refused"]] = MappingProxyType(
    {"committed": "active", "rolled_back": "rolled_back", "refused": "refused"}
)


class Tell(Protocol):
    """Told of every state that is reached."""

    def __call__(self, assignment: Assignment, state: State, detail: str = "") -> None:
        """Tells the host, if it listens."""


class Ending:
    """Ends updates.

    Args:
        memory: What must survive a kill.
        store: The versions on disk.
        bench: Says what this device is.
        hooks: The device's commands.
        clock: Time.
        tell: Told of the end.
    """

    def __init__(
        self, *, memory: Memory, store: Store, bench: Bench, hooks: Hooks, clock: Clock, tell: Tell
    ) -> None:
        self._memory = memory
        self._store = store
        self._bench = bench
        self._hooks = hooks
        self._clock = clock
        self._tell = tell

    def fail(self, pending: Pending, error: TrimtabError) -> Report:
        """Notes that an update fails, takes back what it did, and reports.

        Raises:
            StorageError: The disk refuses; what is noted is ended by `finish`.
        """
        _log.warning("%s ended while %s: %s", pending.assignment.target, pending.step, error)
        failure = Failure(state=pending.step, reason=error.reason, message=str(error))
        found = msgspec.structs.replace(pending.findings, failure=failure)
        self._memory.reach(pending.step, found)
        return self.finish(msgspec.structs.replace(pending, findings=found))

    def finish(self, pending: Pending) -> Report:
        """Takes back what a failed update did; the version before is active afterwards.

        Raises:
            StorageError: The disk refuses; it may be called again.
        """
        found = pending.findings
        end = after_failure(pending.step, switching=found.switching)
        if end == "rolled_back":
            assert found.manifest is not None, "nothing is switched to without one"
            self._store.rollback(sha256_hex(found.manifest))
            found = self._after_rollback(found)
        return self._report(msgspec.structs.replace(pending, findings=found), end)

    def commit(self, pending: Pending) -> Report:
        """Ends an update whose trial is passed.

        Raises:
            StorageError: The disk refuses; it may be called again.
        """
        self._store.commit()
        return self._report(pending, "committed")

    def _after_rollback(self, found: Findings) -> Findings:
        """Runs the hook; its own failure is told, and changes nothing."""
        if self._memory.begin() > MAX_ATTEMPTS:
            return found  # it takes the device down each time
        try:
            self._hooks.run("after_rollback", self._store.current)
        except HookError as error:
            _log.warning("%s", error)
            failure = found.failure
            assert failure is not None, "only a failure is rolled back"
            told = msgspec.structs.replace(failure, message=f"{failure.message}; {error}")
            return msgspec.structs.replace(found, failure=told)
        return found

    def _report(self, pending: Pending, end: State) -> Report:
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
            finished=rfc3339(self._clock.now()),
        )
        self._memory.settle(report)
        self._tell(assignment, end, found.failure.message if found.failure else "")
        return report


def rfc3339(time: datetime) -> str:
    """Returns a UTC time to the second, as every message has it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")
