"""What a technique may use besides the model and its own parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from trimtab.evaluate.data import Dataset
from trimtab_agent.contract.profile import Profile


@dataclass(frozen=True, kw_only=True)
class Context:
    """The surroundings of a recipe; the same for all its steps.

    Attributes:
        profile: The kind of device that the model is compressed for.
        dataset: Samples for calibration and training; None where there are none.
        teacher: The original model, before any step.
        seed: Of every random choice.
        log: Takes a line that says how far a technique is or what it chose.
    """

    profile: Profile
    dataset: Dataset | None
    teacher: ir.Model
    seed: int
    log: Callable[[str], None]
