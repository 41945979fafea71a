"""Small packages for tests of the agent: a manifest and its chunks, of any content."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import zstandard

from trimtab_agent.contract import codec
from trimtab_agent.contract.manifest import (
    Budget,
    Chunk,
    Golden,
    Hardware,
    Lineage,
    Manifest,
    PackageFile,
    RuntimeSpec,
    Sizes,
    TensorSpec,
)


@dataclass(frozen=True)
class SmallPackage:
    """A manifest, its bytes, and the chunks' wire bytes by hash."""

    manifest: Manifest
    manifest_bytes: bytes
    wire: dict[str, bytes]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.manifest_bytes).hexdigest()


def cut(
    path: str, content: bytes, *, chunk_bytes: int = 4096
) -> tuple[PackageFile, dict[str, bytes]]:
    """Codes a file as one zstd frame, and cuts that into chunks."""
    frame = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters.from_level(
            1, format=zstandard.FORMAT_ZSTD1_MAGICLESS
        )
    ).compress(content)
    stream = b"\0" + frame
    wire: dict[str, bytes] = {}
    chunks = []
    for start in range(0, len(stream), chunk_bytes):
        piece = stream[start : start + chunk_bytes]
        digest = hashlib.sha256(piece).hexdigest()
        wire[digest] = piece
        chunks.append(Chunk(sha256=digest, wire_bytes=len(piece)))
    digest = hashlib.sha256(content).hexdigest()
    return PackageFile(
        path=path, size_bytes=len(content), sha256=digest, chunks=tuple(chunks)
    ), wire


def small_package(
    version: str = "1",
    *,
    name: str = "model",
    model: bytes = b"model" * 5000,
    golden: bytes = b"golden",
    golden_count: int = 1,
    runtime: str = "tflite",
    hardware: Hardware | None = None,
    budget: Budget | None = None,
    inputs: tuple[TensorSpec, ...] = (),
    outputs: tuple[TensorSpec, ...] = (),
) -> SmallPackage:
    """Makes a package with the files `model/weights.bin` and `golden.npz`."""
    model_file, wire = cut("model/weights.bin", model)
    golden_file, more = cut("golden.npz", golden)
    wire |= more
    manifest = Manifest(
        format=2,
        name=name,
        version=version,
        created="2026-11-22T00:00:00Z",
        profile="generic-x86-64",
        hardware=hardware or Hardware(),
        runtime=RuntimeSpec(name=runtime, model="model/weights.bin"),
        inputs=inputs,
        outputs=outputs,
        golden=Golden(path="golden.npz", count=golden_count, max_abs_error=0.1),
        sizes=Sizes(wire_bytes=sum(map(len, wire.values())), file_bytes=len(model), weight_bytes=0),
        evaluation=None,
        budget=budget or Budget(),
        lineage=Lineage(
            source_name="model.keras",
            source_sha256=hashlib.sha256(b"source").hexdigest(),
            recipe=(),
            seed=0,
            tools={},
        ),
        files=(model_file, golden_file),
    )
    return SmallPackage(manifest, codec.encode(manifest), wire)
