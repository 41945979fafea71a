"""How often something costly may be done for strangers: a token bucket.

To prove a message takes a child process for the better part of a second, and whoever can publish
at the broker can send messages that prove nothing. What is genuine costs no token.
"""

from __future__ import annotations

from collections.abc import Callable

BURST = 8
"""Fruitless proofs at once: a host's mistake, or a broker that lags behind."""

REFILL_S = 30.0
"""Then one in so many seconds: 2 % of a core where a proof takes 0.6 s."""


class Allowance:
    """Tokens that come back with time.

    Args:
        monotonic_s: Seconds from any start, never backwards.
    """

    def __init__(self, monotonic_s: Callable[[], float]) -> None:
        self._monotonic_s = monotonic_s
        self._full_at_s = monotonic_s()
        """When the bucket is full again, if nothing is spent until then."""

    def spend(self) -> None:
        """Takes one token, if there is one."""
        now_s = self._monotonic_s()
        full_at_s = max(self._full_at_s, now_s) + REFILL_S
        self._full_at_s = min(full_at_s, now_s + BURST * REFILL_S)

    def wait_s(self) -> float:
        """Returns how long it takes until there is a token; 0 if there is one."""
        lacking_s = self._full_at_s - self._monotonic_s()
        return max(lacking_s - (BURST - 1) * REFILL_S, 0.0)
