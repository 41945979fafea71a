"""Time estimated from a profile, before anything is measured.

Time = multiply-accumulates / throughput + bytes / bandwidth: the two limits of the roofline model
(Williams et al., "Roofline", CACM 52(4), 2009), added instead of overlapped, for in-order cores
and small layers hide little of one behind the other. It is a guide for choosing widths and never
reported as a time; the device itself measures those.
"""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.errors import RecipeError
from trimtab.graph.dependencies.cost import Term
from trimtab_agent.contract.profile import Profile

_FLOAT32_MACS_PER_CYCLE = {"avx512f": 16, "avx2": 8, "asimd": 4, "neon": 4}
"""By flag of the instruction set, best first: the 32-bit lanes of one register, that is one fused
multiply-add a cycle. Wide cores start two; a constant factor only shifts the balance with memory.
"""

_FLOAT32_BYTES = 4


def time_terms(profile: Profile, macs: Sequence[Term], traffic: Sequence[Term]) -> list[Term]:
    """Return the terms of the estimated time for one sample, in seconds.

    Args:
        profile: The device.
        macs: Multiply-accumulates.
        traffic: Elements read and written.

    Raises:
        RecipeError: The profile lacks a figure; the message says which.
    """
    macs_per_s = _macs_per_s(profile)
    bandwidth = profile.memory_bandwidth_bytes_per_s
    if bandwidth is None:
        raise _missing(profile, "memory_bandwidth_bytes_per_s")
    return [
        *(Term(term.amount / macs_per_s, term.axes) for term in macs),
        *(Term(term.amount * _FLOAT32_BYTES / bandwidth.value, term.axes) for term in traffic),
    ]


def _macs_per_s(profile: Profile) -> float:
    lanes = next((n for flag, n in _FLOAT32_MACS_PER_CYCLE.items() if flag in profile.isa), None)
    if lanes is None:
        raise _missing(profile, f"isa ({', '.join(_FLOAT32_MACS_PER_CYCLE)})")
    clock = profile.cores[0].max_mhz if profile.cores else None
    if clock is None:
        raise _missing(profile, "cores[0].max_mhz")
    return lanes * clock.value * 1e6 * profile.threads


def _missing(profile: Profile, figure: str) -> RecipeError:
    return RecipeError(
        f"prune_channels: a budget in `time` is estimated from the profile, and {profile.id!r} "
        f"does not state {figure}; give `macs` or `parameters` instead, or a profile that has it"
    )
