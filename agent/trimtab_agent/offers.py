"""Messages that should be assignments, until one is proven and newer than the last.

The broker keeps a device's assignment and delivers it after every connection, so nothing of this is
on the disk.
"""

from __future__ import annotations

from collections import deque

from trimtab_agent.allowance import Allowance
from trimtab_agent.contract.chunks import sha256_hex
from trimtab_agent.contract.messages import Assignment
from trimtab_agent.errors import ReplayError, StorageError, TrimtabError
from trimtab_agent.ports import Clock, Source
from trimtab_agent.state import Memory
from trimtab_agent.states import PASSING, back_off_s

MAX_OFFERS = 4
"""Beyond, what was tried last or has waited for longest is dropped: whoever floods the topic can
keep assignments away in any case."""


class Offers:
    """What was offered and is not settled.

    Args:
        memory: Knows the last assignment that was accepted.
        source: Proves messages.
        clock: Time.
    """

    def __init__(self, memory: Memory, source: Source, clock: Clock) -> None:
        self._memory = memory
        self._source = source
        self._clock = clock
        self._messages: deque[bytes] = deque()
        self._failures = 0
        self._due_s = 0.0
        self._allowance = Allowance(clock.monotonic_s)

    def knows(self, signed: bytes) -> bool:
        """Whether this is the assignment that was accepted last."""
        try:
            return sha256_hex(signed) == self._memory.message_sha256
        except StorageError:
            return False  # it is proven again, which costs a moment

    def would_prove(self, signed: bytes) -> bool:
        """Whether `examine` would look at this message if it came now."""
        return self._allowance.wait_s() == 0.0 and self._is_new(signed)

    def add(self, signed: bytes) -> None:
        """Takes a message in, before all others, unless it is known."""
        if self._is_new(signed):
            if len(self._messages) == MAX_OFFERS:
                self._messages.pop()
            self._messages.appendleft(signed)
            self._due_s = 0.0

    def _is_new(self, signed: bytes) -> bool:
        return signed not in self._messages and not self.knows(signed)

    def try_now(self) -> None:
        """Forgets the wait after a failure."""
        self._due_s = 0.0

    def wait_s(self) -> float | None:
        """Returns how long `examine` has to wait; None if there is nothing to examine."""
        if not self._messages:
            return None
        return max(self._due_s - self._clock.monotonic_s(), self._allowance.wait_s(), 0.0)

    def examine(self) -> tuple[bytes, Assignment] | None:
        """Proves the message that came last; behind it, those that were tried before.

        Returns:
            The message and its assignment, if it is newer than the last; `take` drops it.

        Raises:
            TrimtabError: It is refused and dropped, or what proves it did not come, or cannot be
                kept, and it is tried again later.
        """
        signed = self._messages[0]
        try:
            assignment = self._source.verify_assignment(signed, now=self._clock.now())
            last = self._memory.counter
            if last is not None and assignment.counter < last:
                raise ReplayError(
                    f"the assignment has counter {assignment.counter}; {last} was accepted before"
                )
        except (*PASSING, StorageError):
            self._allowance.spend()
            self._messages.rotate(-1)
            self._due_s = self._clock.monotonic_s() + back_off_s(self._failures)
            self._failures += 1
            raise
        except TrimtabError:
            self._allowance.spend()
            self._messages.popleft()
            raise
        self._failures = 0
        if assignment.counter == last:
            self._messages.popleft()
            return None
        return signed, assignment

    def take(self, signed: bytes) -> None:
        """Drops a message that was accepted."""
        self._messages.remove(signed)
