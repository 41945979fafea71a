"""How long to wait before something is tried again.

A thousand devices lose a broker in the same second. If each waits the same time, they come back in
the same second and the broker goes down again. So each draws its wait at random between nothing
and a limit that doubles: "full jitter" in "Exponential Backoff And Jitter" (M. Brooker, AWS
Architecture Blog, 2015), which found it to need the fewest calls of the variants compared.
"""

from __future__ import annotations

import random


def full_jitter_s(failures: int, *, first_s: float, longest_s: float) -> float:
    """Draws how long to wait after `failures` failures in a row, counted from 0.

    Args:
        failures: Failures before the one that is waited for now.
        first_s: Limit of the first wait; it doubles with every failure.
        longest_s: Limit of every wait.
    """
    limit_s = min(longest_s, first_s * 2.0 ** min(failures, 60))
    return random.uniform(0.0, limit_s)  # noqa: S311 - spreads load, protects nothing


class Patience:
    """How long to wait for the next of many things before it counts as missing.

    It is a multiple of the gap between those that came, so that a slow line is not mistaken for
    a missing message, within bounds, so that one stall is not either. Only time that was spent
    waiting counts: what the receiver does in between is not the sender's silence.

    Args:
        longest_s: Upper bound; also lowers the others.
    """

    _GAPS = 4.0
    _LEAST_S = 3.0
    """A wireless device that changes its access point is silent for a second or two."""
    _WEIGHT = 0.125
    """Of the newest gap in the mean, as TCP's estimator has it (RFC 6298, section 2)."""

    def __init__(self, *, longest_s: float) -> None:
        self._longest_s = longest_s
        self._mean_gap_s: float | None = None
        self._silent_s = 0.0

    @property
    def limit_s(self) -> float:
        """How long the silence may be."""
        typical_s = self._GAPS * (self._mean_gap_s or 0.0)
        return min(self._longest_s, max(self._LEAST_S, typical_s))

    @property
    def is_over(self) -> bool:
        """Whether the silence has been too long."""
        return self._silent_s >= self.limit_s

    def waited(self, seconds: float) -> None:
        """Adds to the silence."""
        self._silent_s += seconds

    def restart(self) -> None:
        """Forgets the silence: there was a reason for it."""
        self._silent_s = 0.0

    def came(self) -> None:
        """Ends the silence: one came."""
        gap_s = self._silent_s
        mean_s = gap_s if self._mean_gap_s is None else self._mean_gap_s
        self._mean_gap_s = mean_s + self._WEIGHT * (gap_s - mean_s)
        self.restart()
