"""What a technique may use besides the model and its own parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import onnx_ir as ir

from trimtab.evaluate.data import Dataset
from trimtab_agent.contract.profile import Profile


@dataclass(kw_only=True)
class Kept:
    """The best that an unfinished step has come to, for whoever interrupts it.

    Attributes:
        model: Trained, and complete but for what the step would still have done to it.
    """

    model: ir.Model | None = None


@dataclass(frozen=True, kw_only=True)
class Context:
    """The surroundings of a recipe; the same for all its steps.

    Attributes:
        profile: The kind of device that the model is compressed for.
        dataset: Samples for calibration and training; None where there are none.
        teacher: The original model, before any step.
        seed: Of every random choice.
        log: Takes a line that says how far a technique is or what it chose.
        kept: What is left of a step that is interrupted.
    """

    profile: Profile
    dataset: Dataset | None
    teacher: ir.Model
    seed: int
    log: Callable[[str], None]
    kept: Kept = field(default_factory=Kept)

    @contextmanager
    def keeping(self, model: ir.Model) -> Iterator[None]:
        """Keeps a model that is trained inside, trained to the end or interrupted."""
        try:
            yield
        except KeyboardInterrupt:
            self.kept.model = model
            raise
        self.kept.model = model
