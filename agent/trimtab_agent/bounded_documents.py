"""Limits on what a source may send for a document, whatever the source is.

TUF's client bounds the length of metadata by itself. These limits hold in the agent's own process,
before anything has been verified, and they bound time as well: who sends a byte now and then must
not keep an update waiting for days (The Update Framework, section 1.5.2: slow retrieval attacks).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from trimtab_agent.contract import layout
from trimtab_agent.contract.layout import MAX_DOCUMENT_BYTES
from trimtab_agent.errors import IntegrityError, TransferTimeoutError
from trimtab_agent.patient_socket import MIN_BYTES_PER_S
from trimtab_agent.sources import Documents

GRACE_S = 120.0
"""What a document may be behind that pace: a lost connection must have time to come back."""


class BoundedDocuments:
    """Documents of another source, up to a size and not below a pace (`sources.Documents`).

    Args:
        source: Where they come from.
        clock: Seconds that only rise; replaced in tests.
    """

    def __init__(self, source: Documents, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._clock = clock

    def read(self, name: str) -> Iterator[bytes]:
        """Yields a document piece by piece.

        Raises:
            FormatError: `name` cannot name a document.
            IntegrityError: It is longer than any document may be.
            TransferTimeoutError: It comes too slowly.
            NetworkError: As the source's `read`.
        """
        layout.document(name)  # raises: the name may come from metadata that somebody else wrote
        start, received = self._clock(), 0
        for piece in self._source.read(name):
            received += len(piece)
            if received > MAX_DOCUMENT_BYTES:
                raise IntegrityError(
                    f"document {name} has more than {MAX_DOCUMENT_BYTES} bytes: no document may"
                )
            spent_s = self._clock() - start
            if spent_s > GRACE_S + received / MIN_BYTES_PER_S:
                raise TransferTimeoutError(
                    f"document {name}: {received} bytes came in {spent_s:.0f} s; a source that is "
                    f"slower than {MIN_BYTES_PER_S} bytes/s is given up"
                )
            yield piece
