"""The size on the wire is that of the chunks of a package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from support.graphs import GRAPHS
from trimtab.package.coding.segments import segments
from trimtab.package.coding.stream import encode_stream
from trimtab.package.wire import wire_bytes


def test_a_small_file_is_its_stream(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    ir.save(GRAPHS["plain"](), path)
    contents = {path.name: path.read_bytes()}
    stream = encode_stream(contents[path.name], segments(path.name, contents))
    assert wire_bytes([path]) == len(stream.data)


def test_equal_chunks_travel_once(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(50_000)
    for name in ("a.bin", "b.bin"):
        (tmp_path / name).write_bytes(content)
    assert len(content) < wire_bytes(sorted(tmp_path.iterdir())) < len(content) + 32


def test_zeros_and_few_values_are_small_on_the_wire(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    random = np.random.default_rng(0)
    for weights, share in (
        (random.normal(size=100_000), 0.85),
        (random.normal(size=100_000) * (random.random(100_000) < 0.2), 0.225),
        (random.choice(random.normal(size=16), 100_000), 0.128),
    ):
        path.write_bytes(weights.astype(np.float32).tobytes())
        assert 0.9 * share < wire_bytes([path]) / path.stat().st_size <= share
