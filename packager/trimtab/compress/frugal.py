"""What can be made of a model without training, from the mildest numeric form to the harshest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import onnx_ir as ir

from trimtab.compress.presets import quantization
from trimtab.compress.recipe import Recipe, parse_recipe
from trimtab_agent.contract.profile import Profile

Goal = Literal["size", "time"]

FLOAT = "float"
MIXED = "mixed precision"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One recipe to try.

    Attributes:
        name: For people; unique.
        recipe: The steps; none leave the model as it is.
        unless: Another candidate: if that kept the budget everywhere, this one is needless.
    """

    name: str
    recipe: Recipe
    unless: str | None = None


def candidates(
    model: ir.Model, profile: Profile, *, max_drop: float, goal: Goal
) -> tuple[Candidate, ...]:
    """Lists what to try for a budget of accuracy, the mildest first; the first is float.

    Args:
        model: The float model.
        profile: The device: int8 only where it runs that.
        max_drop: The budget, as a share.
        goal: What is to become least. Forms that never save time are left out where that is it.
    """
    mixed = {"max_drop": max_drop, "goal": goal}
    narrower = {"max_drop": max_drop / 2, "goal": goal}
    int8 = _candidate("int8", quantization(model, profile))
    found = [_candidate(FLOAT)]
    if goal == "size":
        found.append(_candidate("float16 weights", [{"cast_weights": {}}]))
        found.append(_candidate("8-bit weights", [{"quantize_weights": {"bits": 8}}]))
    if int8.recipe not in [each.recipe for each in found]:
        found.append(int8)
    # What kept the budget on one part of the data may miss it on another: half leaves a margin.
    found.append(_candidate(MIXED, [{"mixed_precision": mixed}]))
    found.append(_candidate(f"{MIXED}, half", [{"mixed_precision": narrower}], unless=MIXED))
    if goal == "size":
        found.append(_candidate("4-bit weights", [{"quantize_weights": {"bits": 4}}]))
    return tuple(found)


def _candidate(
    name: str, steps: list[dict[str, dict[str, Any]]] | None = None, unless: str | None = None
) -> Candidate:
    return Candidate(
        name=name,
        recipe=parse_recipe({"steps": steps or []}, f"candidate {name}"),
        unless=unless,
    )
