"""Real photos from packages, for models of pictures: some to calibrate on, others to test.

scikit-image's and scikit-learn's, and the photos among the stamps of Tux Paint (Debian's
`tuxpaint-stamps-default`: `apt-get download` and `dpkg-deb -x`, which installs nothing). Photos are
told from drawings by their number of colours. The halves share no photo.
Needs: pillow, scikit-learn, scikit-image.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Images = NDArray[np.uint8]

STAMPS = Path("usr/share/tuxpaint/stamps")
MIN_SIDE, MIN_COLOURS = 160, 8000
CROP = (0.5, 1.0)
"""Sides of a crop, as a share of the photo's."""
VIEWS = 5
"""Of each tested photo."""


def load_photos(stamps: Path, size: int, crops: int = 256) -> tuple[Images, Images]:
    """Returns random crops of one half of the photos, and views of the other half.

    Args:
        stamps: Where Debian's package was unpacked.
        size: Height and width of what is returned.
        crops: How many of the former.

    Returns:
        Both of shape (number, size, size, 3). The views are the whole photo and four crops of it,
        photo by photo.
    """
    photos = list(_photos(stamps))
    random = np.random.default_rng(0)
    order = random.permutation(len(photos))
    first, second = order[::2], order[1::2]
    calibration = [_crop(photos[random.choice(first)], size, random) for _ in range(crops)]
    tests = []
    for index in second:
        tests.append(np.asarray(photos[index].resize((size, size), Image.Resampling.BICUBIC)))
        tests += [_crop(photos[index], size, random) for _ in range(VIEWS - 1)]
    return np.stack(calibration), np.stack(tests)


def _photos(stamps: Path) -> Iterator[Image.Image]:
    """Yields square photos, those with a transparent background on white."""
    folders = [stamps / STAMPS]
    for package, folder in (("skimage", "data"), ("sklearn", "datasets/images")):
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise SystemExit(f"{package} is not installed")
        folders.append(Path(spec.origin).parent / folder)
    for folder in folders:
        for path in sorted([*folder.rglob("*.png"), *folder.rglob("*.jpg")]):
            with Image.open(path) as image:
                if min(image.size) >= MIN_SIDE and image.mode in {"RGB", "RGBA", "P"}:
                    picture = image.convert("RGBA")
                    if _colours(picture) >= MIN_COLOURS:
                        yield _square(picture)


def _colours(picture: Image.Image) -> int:
    pixels = np.asarray(picture).reshape(-1, 4)
    opaque = pixels[pixels[:, 3] > 250, :3].astype(np.int32)
    return len(np.unique(opaque @ np.array([1 << 16, 1 << 8, 1], np.int32)))


def _square(picture: Image.Image) -> Image.Image:
    """Returns the photo on a white square, or the middle of it where it has no transparency."""
    side = max(picture.size) if picture.getextrema()[3][0] < 255 else min(picture.size)
    whole = Image.new("RGBA", (side, side), "white")
    corner = ((side - picture.width) // 2, (side - picture.height) // 2)
    whole.paste(picture, corner, picture)
    return whole.convert("RGB")


def _crop(photo: Image.Image, size: int, random: np.random.Generator) -> Images:
    side = int(photo.width * random.uniform(*CROP))
    left, top = random.integers(0, photo.width - side + 1, 2)
    part = photo.crop((left, top, left + side, top + side))
    if random.random() < 0.5:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(part.resize((size, size), Image.Resampling.BICUBIC))
