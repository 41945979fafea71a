"""A package's chunks to a whole group of devices at once: each is sent once, for all of them.

This only saves time and the broker's work. Devices ask for nothing here, so a chunk that a slow
one or a full queue loses is lost without a sign; the devices then get it as retained message or
by want-list, as if there had been no broadcast. So nothing here is repeated, checked or confirmed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from trimtab.fleet.documents import PUBLISH_TIMEOUT_S
from trimtab.fleet.ingest import Ingest
from trimtab.package.read import Package
from trimtab_agent.contract import topics
from trimtab_agent.contract.manifest import Chunk, Manifest, PackageFile
from trimtab_agent.contract.messages import Assignment
from trimtab_agent.link import Link

FIRST_S = 30.0
"""Longest wait for the first device to say that it fetches."""

OTHERS_S = 2.0
"""Longest wait for the others after that: a device listens for 3 s before it fetches otherwise."""


def wait_until_fetching(
    ingest: Ingest,
    assignments: Sequence[Assignment],
    *,
    first_s: float = FIRST_S,
    others_s: float = OTHERS_S,
) -> list[str]:
    """Returns the devices that fetch what they were assigned, once it is time to begin.

    Args:
        ingest: Hears how far devices are.
        assignments: What they were assigned.
        first_s: Longest wait for the first.
        others_s: Longest wait for the others after the first.
    """

    def fetching() -> list[str]:
        return [
            given.device
            for given in assignments
            if (last := ingest.last_progress(given.device))
            and (last.counter, last.state) == (given.counter, "fetching")
        ]

    if ingest.wait_until(lambda: bool(fetching()), first_s):
        ingest.wait_until(lambda: len(fetching()) == len(assignments), others_s)
    return fetching()


def needed_chunks(manifest: Manifest, running: Iterable[Manifest | None]) -> list[Chunk]:
    """Returns the chunks that devices fetch, each once, in the order of the package.

    Args:
        manifest: The package.
        running: What each device has now; None for one that has nothing, or nobody knows.
    """
    installed = [_hashes(manifest) for manifest in running]
    found: dict[str, Chunk] = {}
    for file in manifest.files:
        for hashes in installed:
            found.update((chunk.sha256, chunk) for chunk in _cheapest(file, hashes))
    return list(found.values())


def _hashes(manifest: Manifest | None) -> set[str]:
    return {file.sha256 for file in manifest.files} if manifest else set()


def _cheapest(file: PackageFile, installed: Collection[str]) -> Sequence[Chunk]:
    """Returns a file's own chunks or those of a delta from an installed file: the fewer bytes."""
    if file.sha256 in installed:
        return ()
    ways = [file.chunks, *(d.chunks for d in file.deltas if d.base_sha256 in installed)]
    return min(ways, key=lambda chunks: sum(chunk.wire_bytes for chunk in chunks))


def broadcast(
    link: Link,
    package: Package,
    group: str,
    wanted: Collection[str],
    *,
    bytes_per_s: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Publishes chunks once, not retained, at a steady pace.

    Args:
        link: The connection.
        package: Each chunk is checked once more as it is sent.
        group: Who listens.
        wanted: Hashes of the chunks to send.
        bytes_per_s: The pace.
        clock: Seconds that never run backwards.
        sleep: Waits.

    Returns:
        The bytes that were sent.

    Raises:
        CallerError: The group's name cannot be used, or a chunk is larger than the broker takes.
        IntegrityError: The package has changed since it was opened.
        BrokerError: There is no connection, or the broker refuses a message.
        TransferTimeoutError: The broker did not acknowledge a message.
    """
    topic = topics.group_chunk(group)
    started, sent_bytes = clock(), 0
    for chunk, wire in package.wire_chunks():
        if chunk.sha256 not in wanted:
            continue
        early_s = started + sent_bytes / bytes_per_s - clock()
        if early_s > 0:
            sleep(early_s)
        link.publish(topic, wire, wait_s=PUBLISH_TIMEOUT_S)
        sent_bytes += len(wire)
    return sent_bytes


def running_manifests(
    devices: Sequence[str], active: Mapping[str, str | None], manifests: Mapping[str, Manifest]
) -> list[Manifest | None]:
    """Returns what each device runs, as far as it is known.

    Args:
        devices: The devices.
        active: The package that each device said is active.
        manifests: Those of released packages, by TUF target name.
    """
    return [manifests.get(active.get(device) or "") for device in devices]
