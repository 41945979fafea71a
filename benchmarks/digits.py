"""The 10,000 digits that benchmarks share: how they are split, and their distorted copies.

The archive has x (10000, 28, 28, 1), 0 to 1, and y; it is shuffled already. The first 6,000 train,
1,000 choose between recipes, and 3,000 test. The hard test set is in an archive of its own, as `h`.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import rotate, shift

TRAIN, VALIDATION = 6000, 1000
_PACKAGES = ("tensorflow-cpu", "tensorflow", "keras", "onnxruntime", "ai-edge-litert", "openvino")

Part = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Digits:
    """Images, float32, and class numbers."""

    train: Part
    validation: Part
    test: Part


def load_digits(path: Path) -> Digits:
    with np.load(path) as archive:
        x, y = archive["x"].astype(np.float32), archive["y"].astype(np.int64)
    end = TRAIN + VALIDATION
    return Digits((x[:TRAIN], y[:TRAIN]), (x[TRAIN:end], y[TRAIN:end]), (x[end:], y[end:]))


def with_distorted(part: Part) -> Part:
    """Returns the images with two distorted copies of each, as the float model was trained on."""
    x, y = part
    mild, strong = distort(x, 21, 25, 0.2, 2), distort(x, 22, 35, 0.35, 3)
    return np.concatenate([x, mild, strong]), np.tile(y, 3)


def with_shifted(part: Part, copies: int = 4, pixels: int = 2) -> Part:
    """Returns the images with some copies of each, moved by whole pixels."""
    x, y = part
    random = np.random.default_rng(7)
    moved = [
        np.stack([np.roll(image, random.integers(-pixels, pixels + 1, 2), (0, 1)) for image in x])
        for _ in range(copies)
    ]
    return np.concatenate([x, *moved]), np.tile(y, copies + 1)


def distort(
    images: np.ndarray, seed: int, degrees: float = 35, noise: float = 0.35, pixels: float = 3
) -> np.ndarray:
    """Returns the images turned, shifted and noised."""
    random, out = np.random.RandomState(seed), np.empty_like(images)
    for index, image in enumerate(images):
        angle = random.uniform(-degrees, degrees)
        turned = rotate(image[..., 0], angle, reshape=False, order=1)
        moved = shift(turned, random.uniform(-pixels, pixels, 2), order=1)
        out[index, ..., 0] = np.clip(moved + random.normal(0, noise, moved.shape), 0, 1)
    return out


def dataset(train: Part, test: Part) -> Any:
    """Returns them as the product takes them."""
    from trimtab.evaluate.data import Dataset, Split

    parts = [Split(inputs=(images,), labels=labels) for images, labels in (train, test)]
    return Dataset(source="digits", train=parts[0], test=parts[1], task="classification")


def machine() -> str:
    """Says what this runs on, for the head of a result."""
    versions = []
    for name in _PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    cpu = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    return f"{cpu}, {os.cpu_count()} cores; Python {platform.python_version()}; " + ", ".join(
        versions
    )
