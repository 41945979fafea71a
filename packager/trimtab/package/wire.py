"""How many bytes a file is on the wire: what the weight codec makes of it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from trimtab.package.encoding import encode_file
from trimtab_agent.contract import chunks


def wire_bytes(paths: Iterable[Path]) -> int:
    """Returns the bytes that files take in a package, its manifest and golden samples aside.

    Args:
        paths: All files of an exported model; equal chunks count once.
    """
    contents = {path.name: path.read_bytes() for path in paths}
    sizes = {
        chunk.sha256: chunk.wire_bytes
        for name in contents
        for chunk, _ in encode_file(name, contents, chunks.DEFAULT_CHUNK_BYTES)
    }
    return sum(sizes.values())
