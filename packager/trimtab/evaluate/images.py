"""Folders of images: one folder for each class, perhaps inside `train/` and `test/`.

    photos/                photos/
      data.yaml              train/cat/1.png
      cat/1.png              train/dog/2.png
      dog/2.png              test/cat/3.png

Only names are read at first. An image is opened, resized and scaled when its sample is asked for,
so that memory holds a batch and never the folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.errors import DataError
from trimtab.evaluate.data import Array, Dataset, Split, hold_out
from trimtab.evaluate.preprocess import Preprocessing, read_preprocessing
from trimtab_agent.contract.manifest import TensorSpec

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def load_images(folder: Path, inputs: Sequence[TensorSpec]) -> Dataset:
    """Lists the images of a folder.

    Args:
        folder: As above; `data.yaml` (`trimtab.evaluate.preprocess`) is optional.
        inputs: The model's inputs: one, that takes images of 1, 3 or 4 channels.

    Raises:
        DataError: Pillow is not installed, the model takes no images, there are none, a file is
            none, or the test part has a class that the training part lacks.
    """
    _pillow()
    if len(inputs) != 1:
        raise DataError(f"{folder} is a folder of images; the model has {len(inputs)} inputs")
    preprocessing = read_preprocessing(folder, inputs[0])
    root = folder / "train" if (folder / "train").is_dir() else folder
    names = preprocessing.classes or _class_names(root)
    train = _split(root, names, preprocessing)
    held_out = not (folder / "test").is_dir()
    if held_out:
        train, test = hold_out(train)
    else:
        _check_classes(folder / "test", names)
        test = _split(folder / "test", names, preprocessing)
    return Dataset(
        source=str(folder),
        train=train,
        test=test,
        class_names=names,
        held_out=held_out,
        processing=preprocessing.steps,
    )


class Images:
    """Images as a column: decoded and preprocessed when they are indexed.

    Args:
        paths: One per sample.
        preprocessing: What the model expects.
    """

    def __init__(self, paths: Sequence[Path], preprocessing: Preprocessing) -> None:
        self._paths = np.array([str(path) for path in paths])
        self._preprocessing = preprocessing
        self.shape = (len(paths), *preprocessing.shape)
        self.dtype = np.dtype(preprocessing.dtype)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: Any, /) -> Array:
        paths = np.atleast_1d(self._paths[index])
        result = np.empty((len(paths), *self.shape[1:]), self.dtype)
        for row, path in zip(result, paths, strict=True):
            row[...] = self._preprocessing.apply(self._read(path))
        return result

    def _read(self, path: str) -> Array:
        """Returns an image of the wished size, shape `[height, width, channels]`, uint8."""
        image_module = _pillow()
        from PIL import ImageOps

        height, width = self._preprocessing.size
        try:
            with image_module.open(path) as image:
                upright = _eight_bits(ImageOps.exif_transpose(image))
                colours = upright.convert(self._preprocessing.mode)
                sized = colours.resize((width, height), image_module.Resampling.BILINEAR)
                pixels = np.asarray(sized, np.uint8)
        except (OSError, SyntaxError, ValueError, image_module.DecompressionBombError) as error:
            raise DataError(f"{path} cannot be read as an image: {error}") from error
        return pixels.reshape(height, width, -1)


def _eight_bits(image: Any) -> Any:
    """Brings 16-bit grey to 8 bits by its high byte; Pillow's own conversion cuts it off at 255."""
    if not image.mode.startswith("I"):
        return image
    return _pillow().fromarray((np.asarray(image, np.uint32) >> 8).astype(np.uint8))


def _split(root: Path, names: Sequence[str], preprocessing: Preprocessing) -> Split:
    """Lists the images of one part, class by class, and opens the head of each."""
    paths, labels = [], []
    for label, name in enumerate(names):
        found = sorted(path for path in (root / name).rglob("*") if path.suffix.lower() in SUFFIXES)
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise DataError(f"{root} has no images in its folders {', '.join(names)}")
    for path in paths:
        _check_head(path)
    return Split(inputs=(Images(paths, preprocessing),), labels=np.array(labels, np.int64))


def _check_head(path: Path) -> None:
    """Finds files that are no images at all before any long work; pixels are not read."""
    try:
        with _pillow().open(path):
            pass
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path} is no image: {error}") from error


def _class_names(root: Path) -> tuple[str, ...]:
    names = tuple(sorted(path.name for path in root.iterdir() if _is_class(path)))
    if not names:
        raise DataError(f"{root} has no folders of images; each class needs one of its own")
    return names


def _check_classes(root: Path, names: Sequence[str]) -> None:
    unknown = sorted(path.name for path in root.iterdir() if _is_class(path))
    unknown = [name for name in unknown if name not in names]
    if unknown:
        raise DataError(
            f"{root} has the classes {', '.join(unknown)}, which are not among the training "
            f"part's: {', '.join(names)}"
        )


def _is_class(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".") and path.name != "test"


def _pillow() -> Any:
    """Imports Pillow, which is an extra: most data is no images."""
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(
            "folders of images need Pillow; install it with: pip install 'trimtab[images]'"
        ) from error
    return Image
