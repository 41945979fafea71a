"""The step `distil`: train a smaller student to answer as the original does.

The student learns from softened answers (Hinton et al. 2015), from labels where there are some,
and, where features are named, from inner values too (Romero et al. 2015, "FitNets").
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.compress.fine_tune import Training, load_augment, log_epoch, log_outcome
from trimtab.compress.student import Student, make_student
from trimtab.compress.teacher import Teacher, teacher_answers
from trimtab.engine.heads import heads
from trimtab.errors import DataError, ModelError, RecipeError

if TYPE_CHECKING:
    from trimtab.compress.context import Context
    from trimtab.engine.features import Match

Array = NDArray[Any]

_END = {"softmax": "a Softmax", "sigmoid": "a Sigmoid", "values": "neither Softmax nor Sigmoid"}

_SEEN_SAMPLES = 64
"""Enough for the shapes and the rough variance of features."""


class Feature(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A pair of inner values to match.

    Attributes:
        teacher: The original's value, by its name, which `trimtab inspect` shows.
        student: The student's; by default that of the same name.
    """

    teacher: str
    student: str | None = None


class Distil(Training, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What to train, and how.

    Attributes:
        student: Which model; by default the present one as it is.
        features: Inner values to match.
        feature_share: Weight of the features' mean distance against the loss of the outputs.
        epochs: As for `fine_tune`, and all its other parameters.
    """

    student: Student = Student()
    features: tuple[Feature, ...] = ()
    feature_share: Annotated[float, msgspec.Meta(gt=0, le=100)] = 1.0
    epochs: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 10
    temperature: Annotated[float, msgspec.Meta(ge=1, le=10)] = 4.0


def apply(model: ir.Model, step: Distil, context: Context) -> ir.Model:
    """Returns the trained student.

    Args:
        model: What the student is derived from.
        step: What to train, and how.
        context: Gives the data, the original model as the teacher, and the seed.

    Raises:
        DataError: There is no data, or too little, or its labels do not fit the outputs.
        ModelError: The student cannot be made or does not fit, or has a fixed batch.
        RecipeError: A feature is in neither model.
        UnsupportedOperatorError: The training engine lacks operators of the student.
    """
    if context.dataset is None:
        raise DataError("distil needs data: give --data (labels are not needed)")
    from trimtab.engine.features import FeatureLoss
    from trimtab.engine.feed import Feed
    from trimtab.engine.losses import build_loss
    from trimtab.engine.train import check_trainable, train

    split = context.dataset.train
    augment = load_augment(step)
    student = make_student(model, step.student, context)
    check_trainable(student, len(split))
    _check_ends(student, context.teacher)
    pairs = [_pair(feature, context.teacher, student) for feature in step.features]
    teacher = Teacher(context.teacher, [feature.teacher for feature in step.features])
    seen = teacher(split.take(np.arange(min(_SEEN_SAMPLES, len(split)))))
    matches = _matches(pairs, seen, step)
    answers = teacher_answers(context.teacher, split.columns)
    loss, goals = build_loss(
        student,
        answers,
        split.labels,
        temperature=step.temperature,
        label_share=step.label_share,
    )
    # Features of all samples would not fit into memory: the teacher is asked batch by batch.
    asked = teacher if step.features or augment else answers
    objective = FeatureLoss(loss, matches, share=step.feature_share) if matches else loss
    feed = Feed(split.columns, asked, goals[len(answers) :], augment)
    with context.keeping(student):
        history = train(
            student,
            objective,
            feed,
            step.schedule(context.seed),
            on_epoch=lambda epoch: log_epoch(context, step, epoch),
        )
    log_outcome(context, step, history)
    return student


def _pair(feature: Feature, teacher: ir.Model, student: ir.Model) -> ir.Value:
    """Finds the student's value, and checks that the teacher has its own."""
    found = None
    for whose, model, name in (
        ("original", teacher, feature.teacher),
        ("student", student, feature.student or feature.teacher),
    ):
        values = {str(value.name): value for node in model.graph for value in node.outputs}
        if name not in values:
            near = difflib.get_close_matches(name, values, n=3, cutoff=0.0)
            raise RecipeError(
                f"distil: the {whose} computes no value {name!r}; the nearest names are "
                f"{', '.join(near)}"
            )
        found = values[name]
    assert found is not None
    return found


def _matches(values: Sequence[ir.Value], seen: Sequence[Array], step: Distil) -> list[Match]:
    """Returns the pairs of values, once their widths are known to fit."""
    from trimtab.engine.features import Match, differing_axis

    matches = [
        Match(value, array, feature.teacher)
        for value, array, feature in zip(values, seen, step.features, strict=False)
    ]
    for match in matches:
        differing_axis(match)
    return matches


def _check_ends(student: ir.Model, teacher: ir.Model) -> None:
    """Checks that both answer in the same terms: with probabilities, or with values.

    Raises:
        ModelError: They do not; the student would learn logits where it must tell probabilities.
    """
    for output, asked, answered in zip(
        student.graph.outputs, heads(teacher), heads(student), strict=True
    ):
        if (asked.kind, asked.axis) != (answered.kind, answered.axis):
            raise ModelError(
                f"student: its output {output.name!r} ends in {_END[answered.kind]}, the "
                f"original's in {_END[asked.kind]}; end both in the same"
            )
