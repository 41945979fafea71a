"""Mends what the broker retains: restores what is gone or wrong, clears what nobody wants.

A broker may have lost everything (iotcore at each restart), the last minute (Mosquitto in a power
cut) or nothing; anyone who can publish may have put other bytes in place of a chunk. So the host
looks at every message that should be there, and compares hashes. docs/decisions/0024 says why it
is done this way.

What was found right need not be looked at again after each broken connection: a marker is
retained beside it, and a broker that still has the marker still has what it had before. What was
restored since may be newer than the broker's last save, and is looked at again.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from trimtab.fleet.documents import PUBLISH_TIMEOUT_S, part_limit_bytes
from trimtab.fleet.expected import Expected, expected_chunks, expected_small
from trimtab.fleet.library import Library
from trimtab.fleet.looking import Found, Looking
from trimtab.fleet.shelf import Shelf
from trimtab.package.sign import Repository
from trimtab_agent.contract import topics
from trimtab_agent.contract.chunks import sha256_hex
from trimtab_agent.link import Link

_log = logging.getLogger(__name__)
T = TypeVar("T")

MARKER = topics.document("audit-marker", 0)

LOOK_AT_ONCE = 24
"""Topics in one look: 2.3 MB of chunks, far below every broker's queue, and few enough
subscriptions for brokers that limit them to 50."""

BYTES_PER_S = 50e6
"""Most that is looked at in a second, so that devices get their share of the broker."""

LOOK_TIMEOUT_S = 30.0
_SMALL_ROUNDS = 3


class AuditResult(msgspec.Struct, kw_only=True, frozen=True):
    """What an audit found.

    Attributes:
        looked: Messages that were looked at.
        restored: Those that were gone or wrong, and were published again.
        lost: Those that were gone, and of which this host has no copy.
        cleared: Messages that nobody wants any more, taken off the broker.
    """

    looked: int
    restored: int
    lost: int
    cleared: int


class Audit:
    """Audits one broker, as often as `run` is called. For one thread.

    Args:
        link: The connection.
        repository: Opens the repository as it is now: another process may have signed since.
        packages: The workspace's packages.
        library: The same packages' chunks.
        shelf: What was published.
        stop: Ends an audit early, between two looks.
    """

    def __init__(
        self,
        link: Link,
        repository: Callable[[], Repository],
        packages: Path,
        library: Library,
        shelf: Shelf,
        *,
        stop: threading.Event,
    ) -> None:
        self._link = link
        self._repository = repository
        self._packages = packages
        self._library = library
        self._shelf = shelf
        self._stop = stop
        self._marker = b""
        self._right: set[str] = set()
        self._looked = self._restored = self._lost = 0

    def forget(self) -> None:
        """Has the next audit look at everything, whatever was found right before."""
        self._right.clear()

    def run(self) -> AuditResult:
        """Looks at everything that should be retained and mends it.

        An audit that failed goes on where it was when it is called again, if the broker is still
        the same.

        Raises:
            NetworkError: The connection broke.
            PackageError: A package's manifest is damaged.
            RepositoryError: A file of the repository is missing or broken.
            StorageError: The shelf cannot be read or written.
        """
        self._looked = self._restored = self._lost = 0
        with Looking(self._link, timeout_s=LOOK_TIMEOUT_S) as looking:
            self._check_marker(looking)
            # What devices ask for first is mended first.
            small = self._mend_small(looking)
            chunks = expected_chunks(self._repository(), self._packages, self._shelf, self._library)
            self._mend_chunks(looking, chunks)
        cleared = 0 if self._stop.is_set() else self._clear(small | chunks.keys())
        return AuditResult(
            looked=self._looked, restored=self._restored, lost=self._lost, cleared=cleared
        )

    def _check_marker(self, looking: Looking) -> None:
        """Forgets what was found right unless the broker is the one that had it."""
        found = looking.look([MARKER]).get(MARKER)
        if found is None or found.sha256 != sha256_hex(self._marker):
            self._right.clear()
            self._marker = secrets.token_hex(16).encode()
            self._link.publish(MARKER, self._marker, retain=True, wait_s=PUBLISH_TIMEOUT_S)

    def _mend_small(self, looking: Looking) -> Collection[str]:
        """Mends documents and assignments; returns their topics.

        Another process may publish newer ones meanwhile. It writes them to its files first, so
        what was published here from older files is seen in another round.
        """
        for _ in range(_SMALL_ROUNDS):
            limit_bytes = part_limit_bytes(self._link)
            expected = expected_small(self._repository(), self._shelf, limit_bytes)
            if not self._mend(looking, list(expected.values())):
                break
        return expected.keys()

    def _mend_chunks(self, looking: Looking, expected: dict[str, Expected]) -> None:
        doubtful = [chunk for topic, chunk in expected.items() if topic not in self._right]
        self._mend(looking, doubtful, right=self._right)

    def _mend(
        self, looking: Looking, messages: Sequence[Expected], right: set[str] | None = None
    ) -> bool:
        """Looks at messages and restores those that are wrong; says whether there were any.

        Args:
            looking: Looks.
            messages: What should be there.
            right: Gets the topics of those that are.
        """
        restored = self._restored
        started, size_bytes = time.monotonic(), 0
        for batch in _batches(messages):
            if self._stop.wait(started + size_bytes / BYTES_PER_S - time.monotonic()):
                break
            found = looking.look([message.topic for message in batch])
            self._looked += len(batch)
            size_bytes += sum(message.size_bytes for message in batch)
            for message in batch:
                if not _is_right(message, found.get(message.topic)):
                    self._restore(message)
                elif right is not None:
                    right.add(message.topic)
        return self._restored > restored

    def _restore(self, message: Expected) -> None:
        payload = message.load()
        if payload is None:
            _log.warning("%s is gone, and no package here has it", message.topic)
            self._lost += 1
            return
        self._shelf.put([message.topic])
        self._link.publish(
            message.topic,
            payload,
            retain=True,
            wait_s=PUBLISH_TIMEOUT_S,
            properties=message.properties,
        )
        self._restored += 1

    def _clear(self, wanted: Collection[str]) -> int:
        """Takes off the broker what was put there and is not wanted any more."""
        litter = sorted(self._shelf.topics() - set(wanted))
        for batch in _batches(litter):
            for topic in batch:
                self._link.publish(topic, b"", retain=True, wait_s=PUBLISH_TIMEOUT_S)
            self._shelf.drop(batch)
        return len(litter)


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for at in range(0, len(items), LOOK_AT_ONCE):
        yield items[at : at + LOOK_AT_ONCE]


def _is_right(message: Expected, found: Found | None) -> bool:
    if found is None or found.sha256 != message.sha256:
        return False
    properties = message.properties or {}
    return all(found.properties.get(name) == value for name, value in properties.items())
