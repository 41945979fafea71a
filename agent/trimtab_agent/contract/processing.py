"""What an application does to an input before the model, and to an output after it.

Declared, not executed: Trimtab feeds a model arrays. The manifest carries these steps so that the
application on the device, which was written before this model was, need not guess.
docs/formats/package.md is the prose form.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec

Positive = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Size = Annotated[int, msgspec.Meta(ge=1)]
PerChannel = Annotated[tuple[float, ...], msgspec.Meta(min_length=1)]


class _Step(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True, tag_field="do"):
    """One step. Its field `do` is its class's name in lower case."""


class Resize(_Step, kw_only=True, frozen=True, tag="resize"):
    """Brings an image to a size.

    Attributes:
        height: In pixels.
        width: In pixels.
        fit: `stretch` ignores the proportions; `crop` fills the size and cuts off what is over,
            evenly at both sides; `pad` fits inside the size and fills the rest with `fill`.
        method: How pixels are made up.
        fill: Value of the pixels that `pad` adds.
    """

    height: Size
    width: Size
    fit: Literal["stretch", "crop", "pad"] = "stretch"
    method: Literal["nearest", "bilinear", "bicubic", "area"] = "bilinear"
    fill: float = 0.0


class Crop(_Step, kw_only=True, frozen=True, tag="crop"):
    """Takes the middle of an image.

    Attributes:
        height: In pixels.
        width: In pixels.
    """

    height: Size
    width: Size


class Colour(_Step, kw_only=True, frozen=True, tag="colour"):
    """Brings an image to these channels in this order.

    Attributes:
        order: `rgb`, `bgr`, `rgba` or `grey`.
    """

    order: Literal["rgb", "bgr", "rgba", "grey"]


class Scale(_Step, kw_only=True, frozen=True, tag="scale"):
    """Multiplies every value.

    Attributes:
        factor: By this, such as 1/255.
    """

    factor: float


class Normalize(_Step, kw_only=True, frozen=True, tag="normalize"):
    """Subtracts `mean` and divides by `std`.

    Attributes:
        mean: One for each channel, or one for all.
        std: As many; none is zero.
    """

    mean: PerChannel
    std: PerChannel


class Layout(_Step, kw_only=True, frozen=True, tag="layout"):
    """Says where an image's channels go.

    Attributes:
        order: `nhwc`: last; `nchw`: before height and width.
    """

    order: Literal["nhwc", "nchw"]


class Resample(_Step, kw_only=True, frozen=True, tag="resample"):
    """Brings a signal to a sample rate.

    Attributes:
        rate_hz: Samples a second.
    """

    rate_hz: Positive


class Window(_Step, kw_only=True, frozen=True, tag="window"):
    """Cuts a signal into windows, one for each inference.

    Attributes:
        length: Of a window, in samples.
        hop: From the start of a window to that of the next, in samples.
        function: What a window is multiplied by.
    """

    length: Size
    hop: Size
    function: Literal["none", "hann", "hamming"] = "none"


class Softmax(_Step, kw_only=True, frozen=True, tag="softmax"):
    """Turns scores into probabilities.

    Attributes:
        axis: Of the classes.
    """

    axis: int = -1


class Sigmoid(_Step, kw_only=True, frozen=True, tag="sigmoid"):
    """Turns each score into a probability of its own."""


class Argmax(_Step, kw_only=True, frozen=True, tag="argmax"):
    """Takes the place of the largest value: the class.

    Attributes:
        axis: Of the classes.
    """

    axis: int = -1


class Threshold(_Step, kw_only=True, frozen=True, tag="threshold"):
    """Says yes to what is above a value.

    Attributes:
        above: The value.
    """

    above: float


class Nms(_Step, kw_only=True, frozen=True, tag="nms"):
    """Non-maximum suppression: of boxes that overlap, keeps the one with the best score.

    Attributes:
        scores: Name of the output with the scores; the step stands at the output with the boxes.
        boxes: What the four numbers of a box are.
        iou: Boxes overlap from this intersection over union on.
        score: Boxes with a lower score are left out first.
        most: Boxes that are kept, at most.
    """

    scores: str
    boxes: Literal["yxyx", "xyxy", "xywh", "cxcywh"]
    iou: Share
    score: Share
    most: Size


InputStep: TypeAlias = Resize | Crop | Colour | Scale | Normalize | Layout | Resample | Window
OutputStep: TypeAlias = Softmax | Sigmoid | Argmax | Threshold | Nms
Step: TypeAlias = InputStep | OutputStep


def tag(step: Step) -> str:
    """Returns what a step is called in its field `do`."""
    return str(step.__struct_config__.tag)


def faults(
    place: str, steps: tuple[Step, ...], *, of_input: bool, outputs: frozenset[str]
) -> list[str]:
    """Returns what is wrong with the steps of one input or output.

    Args:
        place: Which one, for messages.
        steps: In the order in which they are done.
        of_input: Whether it is an input.
        outputs: Names of the model's outputs.
    """
    found = []
    for step in steps:
        name = tag(step)
        if isinstance(step, InputStep) is not of_input:
            found.append(f"{place} cannot have the step {name!r}: it is for the other side")
        if isinstance(step, Normalize) and len(step.mean) != len(step.std):
            found.append(f"{place}: {name!r} has {len(step.mean)} means, {len(step.std)} stds")
        if isinstance(step, Normalize) and not all(step.std):
            found.append(f"{place}: {name!r} divides by a std of 0")
        if isinstance(step, Nms) and step.scores not in outputs:
            found.append(f"{place}: {name!r} takes scores from {step.scores!r}, which is no output")
    return found
