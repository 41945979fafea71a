"""What a technique may use besides the model and its own parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec
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


class LayerForm(msgspec.Struct, kw_only=True, frozen=True):
    """The numeric form that a step chose for a layer, and what it was chosen by.

    Attributes:
        layer: Name of its weight.
        form: Such as `int8` or `float32`.
        drop: Of the task's figure with this layer alone in the form; None of float.
        distortion: Error of the outputs then, relative to their spread; None of float.
        saved_bytes: By how much the stored weights shrink; None of float.
        saved_us: By how much this machine's time falls, where that is the goal.
    """

    layer: str
    form: str
    drop: float | None = None
    distortion: float | None = None
    saved_bytes: int | None = None
    saved_us: float | None = None


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
        layer_forms: What the present step chose for each layer, for the report.
    """

    profile: Profile
    dataset: Dataset | None
    teacher: ir.Model
    seed: int
    log: Callable[[str], None]
    kept: Kept = field(default_factory=Kept)
    layer_forms: list[LayerForm] = field(default_factory=list)

    @contextmanager
    def keeping(self, model: ir.Model) -> Iterator[None]:
        """Keeps a model that is trained inside, trained to the end or interrupted."""
        try:
            yield
        except KeyboardInterrupt:
            self.kept.model = model
            raise
        self.kept.model = model
