"""Which packages a broker keeps ready, and which only the want-list serves.

A broker holds what is retained in memory. Most devices fetch what they are assigned, or what was
published last; anything older comes from the host when a device asks for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

NEWEST_KEPT = 5
"""Packages that stay retained though no device is assigned them: a rollout, the version before it
to go back to, and some in trial."""


def kept_packages(
    published: Sequence[str], assigned: Iterable[str], *, newest: int = NEWEST_KEPT
) -> set[str]:
    """Returns the packages whose chunks and manifest stay retained.

    Args:
        published: TUF target names, the last published first.
        assigned: Those that a device is assigned.
        newest: How many of the last published stay in any case.
    """
    return {*published[:newest], *assigned}
