"""The state machine of an update: from an assignment to a report.

Each state says what has been reached; its work leads to the next.

    state      work                                        done        failed
    ---------  ------------------------------------------  ----------  -----------
    assigned   fetch the manifest through TUF, check that  fetching    refused
               it suits this device and fits its disk
    fetching   pull the chunks that are lacking            verifying   refused
    verifying  join them, check each file's hash           staged      refused
    staged     run the golden samples                      checked     refused
    checked    switch `current` to the new version         active      refused
    active     measure                                     measured    rolled_back
    measured, refused, rolled_back: the end; there is a report

* A lost connection is no failure: the step is tried again after each of `RETRY_DELAYS_S`, and
  only then given up. Chunks that came stay.
* What is reached is on the disk before the next work begins. After a kill the work of the state
  that was reached is done again; all of it can be.
* Work that needs no network and was begun `MAX_ATTEMPTS` times without an end (the machine went
  down each time) fails, so that no package can keep a device from ever starting.
* A failure while `active` makes the version before the active one again.
* An assignment with the counter of the last one does nothing; one with a lower counter is an
  attack or a mistake, and is refused without a report.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Literal, TypeVar

import msgspec

from trimtab_agent.contract.chunks import sha256_hex
from trimtab_agent.contract.manifest import parse_manifest
from trimtab_agent.contract.messages import (
    Assignment,
    Failure,
    Progress,
    Report,
    State,
)
from trimtab_agent.errors import (
    DeviceError,
    FormatError,
    NetworkError,
    TrimtabError,
    TrustError,
)
from trimtab_agent.ports import Bench, Clock, Source
from trimtab_agent.state import Findings, Memory, Pending
from trimtab_agent.store import Store
from trimtab_agent.suitability import check_suits

_log = logging.getLogger(__name__)
Result = TypeVar("Result")

NEXT: Mapping[State, State] = MappingProxyType(
    {
        "assigned": "fetching",
        "fetching": "verifying",
        "verifying": "staged",
        "staged": "checked",
        "checked": "active",
        "active": "measured",
    }
)
"""What each state's work leads to. States that are not here are the end."""

NETWORK_STATES: frozenset[State] = frozenset({"assigned", "fetching"})
RETRY_DELAYS_S = (5.0, 15.0, 60.0, 300.0)
MAX_ATTEMPTS = 3

_OUTCOMES: Mapping[State, Literal["active", "rolled_back", "refused"]] = MappingProxyType(
    {"measured": "active", "rolled_back": "rolled_back", "refused": "refused"}
)


def after_failure(state: State) -> State:
    """Returns how an update ends whose work in `state` failed."""
    return "rolled_back" if state == "active" else "refused"


class Updater:
    """Drives one device's updates. Use it from one thread.

    Args:
        memory: What must survive a kill.
        store: The versions on disk.
        source: Where things come from.
        bench: What runs models.
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
        clock: Clock,
        notify: Callable[[Progress], None],
    ) -> None:
        self._memory = memory
        self._store = store
        self._source = source
        self._bench = bench
        self._clock = clock
        self._notify = notify

    def clean_up(self) -> None:
        """Removes what a killed run left; to be called once, before anything else.

        Raises:
            StorageError: The disk refuses.
        """
        if self._memory.pending:
            self._store.clear_staging()
        else:
            self._store.collect_garbage()

    def accept(self, signed: bytes) -> bool:
        """Takes an assignment in, if it is new; `run` then does what it says.

        Nothing may be under way: what a kill interrupted is ended by `run` first, because its
        version may be active already and not be measured yet.

        Args:
            signed: The message as it came.

        Returns:
            Whether it is new. The broker delivers the same one after every connection.

        Raises:
            FormatError: It cannot be read.
            TrustError: It is not signed as it must be, not for this device, expired, or its
                counter is lower than one that was accepted.
            NetworkError: What proves it could not be fetched; it may be given again.
            StorageError: The disk is full or refuses.
        """
        assert self._memory.pending is None, "run() ends what is under way"
        message_sha256 = sha256_hex(signed)
        if message_sha256 == self._memory.message_sha256:
            return False
        now = self._clock.now()
        assignment = self._patiently(
            lambda: self._source.verify_assignment(signed, now=now), "an assignment"
        )
        last = self._memory.counter
        if last is not None and assignment.counter < last:
            raise TrustError(
                f"the assignment has counter {assignment.counter}; {last} was accepted before"
            )
        if assignment.counter == last:
            return False
        self._memory.accept(assignment, message_sha256=message_sha256, started=_rfc3339(now))
        self._tell(assignment, "assigned")
        return True

    def run(self) -> Report | None:
        """Does the update that is under way, if there is one, to its end.

        Returns:
            The report, which is in the outbox, or None if nothing was under way.

        Raises:
            StorageError: The state cannot be kept; the update is still under way.
        """
        pending = self._memory.pending
        if pending is None:
            return None
        state, found = pending.step, pending.findings
        try:
            while state in NEXT:
                found = self._work(pending.assignment, state, found)
                state = NEXT[state]
                self._memory.reach(state, found)
                self._tell(pending.assignment, state)
        except TrimtabError as error:
            _log.warning("%s ended while %s: %s", pending.assignment.target, state, error)
            return self._fail(pending, state, found, error)
        report = self._end(pending, "measured", found, None)
        self._store.collect_garbage()
        return report

    def _work(self, assignment: Assignment, state: State, found: Findings) -> Findings:
        """Does the work of one state and returns what is known after it."""
        if state in NETWORK_STATES:
            return self._patiently(
                lambda: self._work_once(assignment, state, found), assignment.target
            )
        attempts = self._memory.begin()
        if attempts > MAX_ATTEMPTS:
            raise DeviceError(
                f"the device went down {MAX_ATTEMPTS} times while the update was {state!r}"
            )
        return self._work_once(assignment, state, found)

    def _work_once(self, assignment: Assignment, state: State, found: Findings) -> Findings:
        if state == "assigned":
            return self._get_manifest(assignment)
        assert found.manifest is not None, f"{state} comes after assigned"
        if state == "fetching":
            wanted = self._store.cheapest(parse_manifest(found.manifest))
            transfer = self._source.pull(wanted, self._store.chunks)
            return msgspec.structs.replace(found, transfer=transfer)
        # Nothing is done twice here: a version that is installed or active already is left alone.
        version = self._store.install(found.manifest)
        if state == "staged":
            golden = self._bench.check_golden(version)
            return msgspec.structs.replace(found, golden=golden)
        if state == "checked":
            self._store.switch(version)
        if state == "active":
            # A kill may have come after a rollback and before its report: then it is tried anew.
            self._store.switch(version)
            return msgspec.structs.replace(found, measurement=self._bench.measure(version))
        return found

    def _get_manifest(self, assignment: Assignment) -> Findings:
        """Fetches the manifest and checks that the package can run here."""
        data = self._source.manifest(assignment.target)
        manifest = parse_manifest(data, what=assignment.target)
        if manifest.target_name != assignment.target:
            raise FormatError(f"{assignment.target} is the manifest of {manifest.target_name}")
        check_suits(manifest, self._bench.inventory())
        if self._store.find(sha256_hex(data)) is None:
            self._store.check_room(manifest)
        return Findings(manifest=data)

    def _patiently(self, work: Callable[[], Result], what: str) -> Result:
        """Does `work`, and again after each of `RETRY_DELAYS_S` while the network is in the way."""
        for delay_s in RETRY_DELAYS_S:
            try:
                return work()
            except NetworkError as error:
                _log.warning("%s: %s; trying again in %g s", what, error, delay_s)
                self._clock.sleep(delay_s)
        return work()

    def _fail(self, pending: Pending, state: State, found: Findings, error: TrimtabError) -> Report:
        """Ends an update that failed; the version before is active afterwards."""
        end = after_failure(state)
        if end == "rolled_back" and found.manifest is not None:
            version = self._store.find(sha256_hex(found.manifest))
            if version:
                self._store.rollback(version)
        failure = Failure(state=state, reason=error.reason, message=str(error))
        report = self._end(pending, end, found, failure)
        # After a transfer that the network broke, the chunks that came are worth keeping.
        if not isinstance(error, NetworkError):
            self._store.collect_garbage()
        return report

    def _end(
        self, pending: Pending, end: State, found: Findings, failure: Failure | None
    ) -> Report:
        """Writes the report into the outbox, which ends the update."""
        active = self._store.current
        report = Report(
            id=str(uuid.uuid4()),
            device=pending.assignment.device,
            counter=pending.assignment.counter,
            target=pending.assignment.target,
            target_sha256=None if found.manifest is None else sha256_hex(found.manifest),
            trial=pending.assignment.trial,
            outcome=_OUTCOMES[end],
            active=active.manifest.target_name if active else None,
            failure=failure,
            transfer=found.transfer,
            golden=found.golden,
            measurement=found.measurement,
            inventory=self._bench.inventory(),
            started=pending.started,
            finished=_rfc3339(self._clock.now()),
        )
        self._memory.settle(report)
        if failure:
            self._tell(pending.assignment, end, failure.message)
        return report

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
