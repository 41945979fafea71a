"""Candidates: what could be made of a model, from the gentlest to the harshest."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal

import msgspec

from trimtab.errors import RecipeError
from trimtab_agent.contract.manifest import RuntimeName
from trimtab_agent.contract.profile import Profile

Precision = Literal["float32", "int8"]

MACS_SHARES = (1.0, 0.84, 0.7, 0.59, 0.5, 0.42, 0.35, 0.3, 0.25)
"""What pruning leaves of the multiply-accumulates, 1 for no pruning. Each is about 0.84 of the one
before: where latency follows the multiply-accumulates, steps of equal weight. On the smart-watch
CNN of the demo, steps of 0.7 left a gap of 1.4 points of accuracy between two of them."""

FINE_TUNE_EPOCHS = 5
"""After pruning. On the smart-watch CNN of the demo the held-back loss has levelled off by then."""


class Candidate(msgspec.Struct, kw_only=True, frozen=True):
    """One way to compress a model, for one runtime.

    Attributes:
        id: Unique in a search, and part of the package's version.
        recipe: The steps, in order, each as `trimtab.compress.recipe` reads it; empty for the
            original in this runtime's format.
        target: The runtime it is exported for.
        precision: What the runtime calculates in.
        macs_share: The multiply-accumulates that should be left, as a share of the original's.
            What is really left is known once it is built: channels are kept in multiples.
    """

    id: str
    recipe: tuple[dict[str, Any], ...]
    target: RuntimeName
    precision: Precision
    macs_share: Annotated[float, msgspec.Meta(gt=0, le=1)]


def at_least_as_harsh(candidate: Candidate, than: Candidate) -> bool:
    """Says whether a candidate leaves no more multiply-accumulates, in no finer a precision.

    By the planned shares: pruning to less never keeps more, whatever is counted in the end. The
    runtime does not matter here. Two candidates may be each at least as harsh as the other, or
    neither.
    """
    finer = candidate.precision == "float32" and than.precision == "int8"
    return candidate.macs_share <= than.macs_share and not finer


def ladder(
    profile: Profile, targets: Collection[RuntimeName] | None = None, *, has_data: bool = True
) -> tuple[Candidate, ...]:
    """Returns the candidates for a kind of device, in the order in which to prefer them.

    Per runtime: the original, pruned to each of `MACS_SHARES`, and each of those in int8. Int8 is
    tried only where the profile says that the runtime runs it fast. What was pruned is trained
    for a few epochs; without data there is neither training nor int8, which needs calibration.

    Args:
        profile: Its runtimes are the permitted ones, best first.
        targets: Restricts them further; None for all.
        has_data: Whether there are samples to train and to calibrate with.

    Raises:
        RecipeError: None of `targets` is in the profile.
    """
    runtimes = [
        runtime for runtime in profile.runtimes if targets is None or runtime.name in targets
    ]
    if not runtimes:
        raise RecipeError(
            f"profile {profile.id} has none of the runtimes {', '.join(sorted(targets or ()))}; "
            f"it has {', '.join(runtime.name for runtime in profile.runtimes)}"
        )
    return tuple(
        _candidate(runtime.name, precision, share, has_data=has_data)
        for runtime in runtimes
        for precision in _PRECISIONS
        if precision == "float32" or (precision in runtime.dtypes and has_data)
        for share in MACS_SHARES
    )


_PRECISIONS: tuple[Precision, ...] = ("float32", "int8")


def _candidate(
    target: RuntimeName, precision: Precision, share: float, *, has_data: bool
) -> Candidate:
    """Returns the candidate for one runtime, precision and degree of pruning."""
    recipe: list[dict[str, Any]] = []
    name = f"{target}-{precision}"
    if share < 1:
        # Pruned first and quantized last: ranges are measured on the model that will run.
        recipe.append({"prune_channels": {"macs": share}})
        if has_data:
            recipe.append({"fine_tune": {"epochs": FINE_TUNE_EPOCHS}})
        name += f"-prune{share * 100:.0f}"
    if precision == "int8":
        recipe.append({"quantize_int8": {}})
    return Candidate(
        id=name, recipe=tuple(recipe), target=target, precision=precision, macs_share=share
    )
