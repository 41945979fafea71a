"""Sources that are nearer than the broker: a USB stick, a cache in the plant.

They bring what has a hash for a name: chunks, and TUF targets such as manifests. These are right
or are not there. Metadata is small, and comes from the broker alone: that of a stick may be old or
wrong, and must not hold up an update that the broker has.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence

from trimtab_agent.contract.chunks import sha256_hex
from trimtab_agent.errors import FormatError, NetworkError
from trimtab_agent.source_url import FileSource
from trimtab_agent.sources import Chunks, Documents
from trimtab_agent.transfer import Ways

_log = logging.getLogger(__name__)
_HASH = re.compile(r"[0-9a-f]{64}")


class NearbyDocuments:
    """Documents from the nearest source that has them whole (`sources.Documents`).

    Args:
        nearby: Asked first, in this order.
        broker: Asked for what none of them has.
    """

    def __init__(self, nearby: Sequence[FileSource], broker: Documents) -> None:
        self._nearby = nearby
        self._broker = broker

    def read(self, name: str) -> Iterator[bytes]:
        """See `sources.Documents`."""
        data = self._find(name) if _HASH.fullmatch(name) else None
        if data is None:
            yield from self._broker.read(name)
        else:
            yield data

    def _find(self, sha256: str) -> bytes | None:
        for source in self._nearby:
            try:
                data = b"".join(source.read(sha256))
            except (NetworkError, FormatError) as error:
                _log.warning("%s is left aside: %s", source, error)
                continue
            if sha256_hex(data) == sha256:
                return data
            _log.warning("%s has wrong bytes as %s", source, sha256[:12])
        return None


def nearby_ways(nearby: Sequence[FileSource], ways: Ways) -> Ways:
    """Returns ways that begin with the nearer sources.

    Args:
        nearby: Asked first, in this order.
        ways: Asked for what none of them has.
    """

    def all_ways(group: str | None) -> dict[str, Chunks]:
        return {**{str(source): source for source in nearby}, **ways(group)}

    return all_ways
