"""A small package whose every input is fixed, for tests that need one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from trimtab.package.build import Base, Description, build_package
from trimtab.package.golden import GoldenSamples
from trimtab_agent.contract.manifest import Lineage, RuntimeSpec, TensorSpec

MODEL = "model.tflite"


def describe(**changes: object) -> Description:
    """Returns a description of a model with one input of 4 and one output of 2."""
    base = Description(
        name="demo",
        version="1",
        created="2026-11-22T00:00:00Z",
        profile="generic-x86-64",
        runtime=RuntimeSpec(name="tflite", model=MODEL),
        inputs=(TensorSpec(name="x", shape=(None, 4), dtype="float32"),),
        outputs=(TensorSpec(name="y", shape=(None, 2), dtype="float32"),),
        weight_bytes=1000,
        lineage=Lineage(
            source_name="model.keras", source_sha256="0" * 64, recipe=(), seed=1, tools={}
        ),
    )
    return msgspec.structs.replace(base, **changes)


def golden(count: int = 3) -> GoldenSamples:
    """Returns samples 0, 1, 2... with their sums as outputs."""
    inputs = np.arange(count * 4, dtype=np.float32).reshape(count, 4)
    outputs = inputs.reshape(count, 2, 2).sum(axis=2)
    return GoldenSamples(inputs=[inputs], outputs=[outputs], max_abs_error=1e-3)


def model_bytes(size: int = 300_000) -> bytes:
    """Returns bytes of which one half packs well and the other does not."""
    noise = np.random.default_rng(7).integers(0, 256, size // 2, dtype=np.uint8)
    return bytes(size - size // 2) + noise.tobytes()


def make_package(
    directory: Path,
    *,
    data: bytes | None = None,
    model: str = MODEL,
    chunk_limit_bytes: int = 96 * 1024,
    bases: Sequence[Base] = (),
    **changes: object,
) -> Path:
    """Builds a package around `data`."""
    source = directory / "source.bin"
    source.write_bytes(model_bytes() if data is None else data)
    return build_package(
        directory,
        description=describe(**{"runtime": RuntimeSpec(name="tflite", model=model), **changes}),
        files={model: source},
        golden=golden(),
        bases=bases,
        chunk_limit_bytes=chunk_limit_bytes,
    )
