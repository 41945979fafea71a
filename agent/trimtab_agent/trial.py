"""The trial of a version: it is active already, and must prove itself before it is committed.

Time on trial is what this process has seen pass on the monotonic clock, added up over restarts.
So a clock that is set forward ends no trial early, and a device that is switched off most of the
day is not taken for one that ran well. What a kill may lose of it is `KEEP_S`.
"""

from __future__ import annotations

import logging

import msgspec

from trimtab_agent.contract.messages import HealthCheck
from trimtab_agent.errors import AttemptsError, HealthError
from trimtab_agent.ports import Clock, Hooks
from trimtab_agent.state import Memory, Pending, TrialRecord
from trimtab_agent.version import Version

_log = logging.getLogger(__name__)
KEEP_S = 60.0
"""How often the time on trial goes to the disk: often enough, and an SD card wears little."""


class Trial:
    """One trial, as far as this process sees it.

    Args:
        memory: Keeps the record.
        hooks: The device's commands.
        clock: Time.
        pending: The update that is on trial.
        max_attempts: How often the agent may go down without being told to.

    Raises:
        AttemptsError: It went down more often.
        StorageError: The record cannot be kept.
    """

    def __init__(
        self, memory: Memory, hooks: Hooks, clock: Clock, pending: Pending, *, max_attempts: int
    ) -> None:
        self._memory = memory
        self._hooks = hooks
        self._clock = clock
        self._pending = pending
        self._found = pending.findings
        self._record = pending.findings.trial or TrialRecord()
        self._since_s = clock.monotonic_s()
        self._next_check_s = self._since_s
        if memory.begin() > max_attempts:
            raise AttemptsError(
                f"the device went down {max_attempts} times while {pending.assignment.target} "
                f"was on trial"
            )

    def go_on(self, version: Version) -> float | None:
        """Does what is due.

        Returns:
            Seconds until there is more to do, or None when the trial is passed.

        Raises:
            HookError: The hook `after_switch` failed.
            HealthError: The health command failed more often in a row than it may.
            StorageError: The record cannot be kept; it may be called again.
        """
        if not self._record.hooked:
            self._hooks.run("after_switch", version)
            self._keep(hooked=True)
        now_s = self._clock.monotonic_s()
        if self._hooks.has_health and now_s >= self._next_check_s:
            self._check(version)
            now_s = self._clock.monotonic_s()
            self._next_check_s = now_s + self._hooks.interval_s
        passed_s, self._since_s = now_s - self._since_s, now_s
        self._keep(elapsed_s=self._record.elapsed_s + passed_s)
        return self._wait_s(now_s)

    def _wait_s(self, now_s: float) -> float | None:
        """Returns the time until something is due; None when the trial is passed."""
        left_s = self._pending.assignment.probation_s - self._record.elapsed_s
        healthy = not self._hooks.has_health or (self._record.runs and not self._record.failing)
        if left_s <= 0 and healthy:
            return None
        waits_s = [KEEP_S]
        if left_s > 0:
            waits_s.append(left_s)
        if self._hooks.has_health:
            waits_s.append(max(self._next_check_s - now_s, 0.0))
        return min(waits_s)

    def _check(self, version: Version) -> None:
        """Runs the health command once."""
        record = self._record
        try:
            self._hooks.check_health(version)
        except HealthError as error:
            failing = record.failing + 1
            self._keep(runs=record.runs + 1, failures=record.failures + 1, failing=failing)
            if failing > self._hooks.failures_allowed:
                raise
            _log.warning("%s; %d more may fail", error, self._hooks.failures_allowed - failing)
        else:
            self._keep(runs=record.runs + 1, failing=0)

    def _keep(self, **changes: float) -> None:
        self._record = msgspec.structs.replace(self._record, **changes)
        self._found = msgspec.structs.replace(self._found, trial=self._record)
        self._memory.keep(self._found)


def health_of(record: TrialRecord | None) -> HealthCheck | None:
    """Returns what a report says of a trial."""
    if record is None:
        return None
    return HealthCheck(
        runs=record.runs, failures=record.failures, probation_s=round(record.elapsed_s, 3)
    )
