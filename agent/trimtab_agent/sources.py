"""What a package comes through: a broker, a folder on a USB stick, a cache in the plant.

A source is trusted with nothing: whoever reads from it checks signatures and hashes. So a new kind
needs these two methods and no thought about security.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from trimtab_agent.contract.manifest import Chunk


class Documents(Protocol):
    """TUF metadata and TUF targets by name, such as `timestamp.json` or a SHA-256."""

    def read(self, name: str) -> Iterator[bytes]:
        """Yields a document piece by piece.

        Raises:
            DocumentMissingError: There is no such document, for certain: not "it did not come".
            FormatError: What came is no document.
            NetworkError: It did not come.
        """


class Chunks(Protocol):
    """Chunks by their hash."""

    def fetch(
        self, chunks: Iterable[Chunk], *, stop: Callable[[], bool]
    ) -> Iterator[tuple[Chunk, bytes]]:
        """Yields the chunks in the order in which they come, each with bytes nobody has checked.

        Args:
            chunks: Distinct ones. To be taken one by one, as they are asked for: a bandwidth cap
                holds the iterator back.
            stop: Asked at least once a second; once it says True the iterator ends early.

        Raises:
            NetworkError: One did not come; those before it were yielded.
        """
