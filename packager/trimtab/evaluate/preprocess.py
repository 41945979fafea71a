"""What must be done to pixels before a model sees them, as a folder's `data.yaml` declares it.

size: [224, 224]          # height, width; the model's own where it says
scale: 0.00392156862745   # pixels 0 to 255 are multiplied by it; 1/255 if left out
mean: [0.485, 0.456, 0.406]   # then this is subtracted, a number or one for each channel
std: [0.229, 0.224, 0.225]    # and the rest divided by this
layout: nchw              # or nhwc; from the model's shape if left out
classes: [cat, dog]       # the folders in the model's order; by name if left out
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np

from trimtab.errors import DataError
from trimtab.evaluate.data import Array
from trimtab.yaml_text import decode_yaml
from trimtab_agent.contract.manifest import TensorSpec
from trimtab_agent.contract.processing import (
    Colour,
    InputStep,
    Layout,
    Normalize,
    Resize,
    Scale,
)
from trimtab_agent.errors import FormatError

FILE = "data.yaml"
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_ORDERS: dict[int, Literal["grey", "rgb", "rgba"]] = {1: "grey", 3: "rgb", 4: "rgba"}
_Side = Annotated[int, msgspec.Meta(ge=1)]


class _Declared(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The file as it is written."""

    size: tuple[_Side, _Side] | None = None
    scale: float | None = None
    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0
    layout: Literal["nhwc", "nchw"] | None = None
    classes: tuple[str, ...] | None = None


class Preprocessing(msgspec.Struct, kw_only=True, frozen=True):
    """Pixels to samples.

    Attributes:
        size: Height and width.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA).
        layout: Where the channels go.
        scale: Pixels are multiplied by it.
        mean: Then this is subtracted, one for each channel.
        std: Then it is divided by this.
        dtype: Of samples.
        classes: Names of the class folders in the model's order, if declared.
    """

    size: tuple[int, int]
    channels: int
    layout: Literal["nhwc", "nchw"]
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: str
    classes: tuple[str, ...] | None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of a sample."""
        height, width = self.size
        if self.layout == "nchw":
            return self.channels, height, width
        return height, width, self.channels

    @property
    def mode(self) -> str:
        """Pillow's name for pixels with so many channels."""
        return _MODES[self.channels]

    @property
    def steps(self) -> tuple[InputStep, ...]:
        """The same in the words of a manifest, for the application that has a camera."""
        height, width = self.size
        steps: list[InputStep] = [
            Colour(order=_ORDERS[self.channels]),
            Resize(height=height, width=width),
            Scale(factor=self.scale),
        ]
        if any(self.mean) or any(value != 1 for value in self.std):
            steps.append(Normalize(mean=self.mean, std=self.std))
        return (*steps, Layout(order=self.layout))

    def apply(self, pixels: Array) -> Array:
        """Returns a sample from pixels of shape `[height, width, channels]`, uint8."""
        values = (pixels * self.scale - np.array(self.mean)) / np.array(self.std)
        if np.issubdtype(np.dtype(self.dtype), np.integer):
            values = np.rint(values)
        sample: Array = values.astype(self.dtype)
        return sample.transpose(2, 0, 1) if self.layout == "nchw" else sample


def read_preprocessing(folder: Path, spec: TensorSpec) -> Preprocessing:
    """Reads a folder's `data.yaml`, if there is one, and fills in what the model's input says.

    Args:
        folder: The folder of images.
        spec: The model's input, the batch axis first.

    Raises:
        DataError: The file is malformed or contradicts the model, or the model takes no images.
    """
    path = folder / FILE
    declared = _read(path) if path.is_file() else _Declared()
    layout, channels, sides = _image_shape(spec, declared.layout, folder)
    size = declared.size or (sides if None not in sides else None)
    if size is None:
        raise DataError(f"{folder}: the model takes images of any size; give `size` in {FILE}")
    if any(want not in (None, got) for want, got in zip(sides, size, strict=True)):
        raise DataError(f"{path}: size is {list(size)}, the model takes {list(sides)}")
    whole = np.issubdtype(np.dtype(spec.dtype), np.integer)
    scale = declared.scale if declared.scale is not None else 1.0 if whole else 1 / 255
    std = _per_channel("std", declared.std, channels, path)
    if not all(std):
        raise DataError(f"{path}: std has a zero; nothing can be divided by it")
    return Preprocessing(
        size=(int(size[0] or 0), int(size[1] or 0)),
        channels=channels,
        layout=layout,
        scale=scale,
        mean=_per_channel("mean", declared.mean, channels, path),
        std=std,
        dtype=spec.dtype,
        classes=declared.classes,
    )


def _read(path: Path) -> _Declared:
    try:
        return decode_yaml(path.read_bytes(), _Declared)
    except (OSError, FormatError) as error:
        raise DataError(f"{path}: {error}") from error


def _image_shape(
    spec: TensorSpec, layout: Literal["nhwc", "nchw"] | None, folder: Path
) -> tuple[Literal["nhwc", "nchw"], int, tuple[int | None, int | None]]:
    """Returns the layout, the channels, and height and width, None where they are free."""
    shape = spec.shape
    if len(shape) == 4 and layout != "nchw" and shape[3] in _MODES:
        return "nhwc", int(shape[3] or 0), (shape[1], shape[2])
    if len(shape) == 4 and layout != "nhwc" and shape[1] in _MODES:
        return "nchw", int(shape[1] or 0), (shape[2], shape[3])
    text = ", ".join("any" if size is None else str(size) for size in shape[1:])
    raise DataError(
        f"{folder} is a folder of images; the model's input {spec.name} has the shape "
        f"[samples, {text}], which is no image of 1, 3 or 4 channels"
        + (f" in the layout {layout}" if layout else "")
    )


def _per_channel(
    name: str, value: float | tuple[float, ...], channels: int, path: Path
) -> tuple[float, ...]:
    values = value if isinstance(value, tuple) else (value,) * channels
    if len(values) != channels:
        raise DataError(f"{path}: {name} has {len(values)} numbers for {channels} channels")
    return values
