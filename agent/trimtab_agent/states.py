"""The states of an update, and what leads from one to the next; `updater` has the table. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from trimtab_agent.backoff import full_jitter_s
from trimtab_agent.contract.messages import State
from trimtab_agent.errors import ExpiredError, HelperProcessError, NetworkError

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

PASSING = (NetworkError, ExpiredError, HelperProcessError)
"""What another try may mend: the package is not to blame."""


def after_failure(state: State, *, switching: bool) -> State:
    """Returns how an update ends that failed in `state`.

    One that has switched nothing takes nothing back: when the active version is assigned again, it
    stays active whatever comes of its trial.

    Args:
        state: What it had reached; `committed` is an ordered rollback.
        switching: Whether it switched, or may have.
    """
    return "rolled_back" if switching or state == "committed" else "refused"


def back_off_s(failures: int) -> float:
    """Draws how long to wait after `failures` failures in a row, counted from 0."""
    return full_jitter_s(failures, first_s=FIRST_RETRY_S, longest_s=LONGEST_RETRY_S)
