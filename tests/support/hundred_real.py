"""Models of other people's, found as files: the kinds that nobody here has drawn."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from support.hundred_models import Array, Family
from trimtab_agent import runtimes
from trimtab_agent.contract.manifest import TensorSpec
from trimtab_agent.errors import TrimtabError

_RUNTIMES = {".onnx": "onnxruntime", ".tflite": "tflite"}
FREE = 64
"""What stands for a free dimension; image models want multiples of 32."""

_log = logging.getLogger(__name__)


def find_families(folder: Path) -> Iterator[Family]:
    """Yields a family for each model under a folder that runs on inputs of chance."""
    for path in sorted(folder.rglob("*")):
        runtime = _RUNTIMES.get(path.suffix)
        if runtime is None or not path.is_file():
            continue
        family = _family(path, runtime)
        try:
            session = runtimes.load(runtime, path)
            runtimes.run_samples(session, family.sample(np.random.default_rng(0), 2))
        except TrimtabError as error:
            _log.warning("left out: %s", error)
        else:
            yield family


def _family(path: Path, runtime: str) -> Family:
    content, specs = path.read_bytes(), _inputs(path, runtime)
    stem = re.sub(r"[^a-z0-9]+", "-", f"{path.parent.name}-{path.stem}".lower()).strip("-")
    return Family(
        name=f"real-{stem[:40]}-{runtime}",
        runtime=runtime,
        draw=lambda _rng: {},
        write=lambda _weights: {f"model{path.suffix}": content},
        sample=lambda rng, count: [_draw(rng, spec, count) for spec in specs],
    )


def _inputs(path: Path, runtime: str) -> tuple[TensorSpec, ...]:
    try:
        return runtimes.load(runtime, path).inputs
    except TrimtabError:
        return ()


def _draw(rng: np.random.Generator, spec: TensorSpec, count: int) -> Array:
    sizes = [FREE if size is None else size for size in spec.shape]
    has_batch = bool(spec.shape) and spec.shape[0] in (None, 1)
    shape = (count, *(sizes[1:] if has_batch else sizes))
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        return rng.random(shape).astype(dtype)
    most = 256 if dtype == np.uint8 else 2
    return rng.integers(0, most, shape).astype(dtype)
