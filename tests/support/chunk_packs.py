"""What lies in a device's chunk cache, read from its files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from trimtab_agent.chunk_cache import scan


def packed(directory: Path) -> dict[str, bytes]:
    """Returns each chunk's bytes as they lie in the packs of `directory`, whole or not."""
    return {
        sha256: place.pack.read_bytes()[place.offset : place.offset + place.size_bytes]
        for pack in sorted(directory.glob("*.pack"))
        for sha256, place in scan(pack)
    }


def torn(directory: Path) -> list[str]:
    """Returns the names of the chunks that do not have their hash."""
    return [
        sha256
        for sha256, wire in packed(directory).items()
        if hashlib.sha256(wire).hexdigest() != sha256
    ]


def damage(directory: Path, sha256: str) -> None:
    """Turns a bit of a chunk around."""
    for pack in directory.glob("*.pack"):
        for name, place in scan(pack):
            if name == sha256:
                content = bytearray(pack.read_bytes())
                content[place.offset] ^= 1
                pack.write_bytes(content)
