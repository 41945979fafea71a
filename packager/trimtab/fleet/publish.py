"""Packages and assignments to the broker, as retained messages.

The order makes every state in between harmless: chunks, then the manifest, then the metadata
that lists it, `timestamp.json` last. A device that looks at any moment sees the release before
or the new one, whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec

from trimtab.fleet.documents import PUBLISH_TIMEOUT_S, publish_document
from trimtab.fleet.prune import kept_packages
from trimtab.fleet.shelf import Shelf
from trimtab.package.read import Package
from trimtab.package.sign import Repository
from trimtab_agent.contract import topics
from trimtab_agent.contract.chunks import all_chunks
from trimtab_agent.contract.messages import Assignment, Gates
from trimtab_agent.errors import PackageError
from trimtab_agent.link import Link

_MUTABLE = "timestamp.json"
"""The only document that changes under its name; all others carry a version or a hash."""


class Terms(msgspec.Struct, kw_only=True, frozen=True):
    """On what terms a package may run on a device.

    Attributes:
        gates: What it must show by measurement.
        probation_s: How long it runs on trial before it is committed.
        group: Whose broadcast of chunks the device listens to, or None.
    """

    gates: Gates = Gates()
    probation_s: float = 0.0
    group: str | None = None


@dataclass(frozen=True, kw_only=True)
class PublishResult:
    """What was published.

    Attributes:
        target: TUF target name of the package.
        chunks: Distinct chunks in the package.
        chunks_sent: Those that were sent now, not in this session before.
        sent_bytes: Their bytes on the wire.
    """

    target: str
    chunks: int
    chunks_sent: int
    sent_bytes: int


def publish_package(
    link: Link,
    repository: Repository,
    package: Package,
    *,
    shelf: Shelf,
    on_progress: Callable[[int, int], None] | None = None,
) -> PublishResult:
    """Releases a package and publishes all that a device needs to install it.

    Args:
        link: The connection.
        repository: Signs the release.
        package: Each chunk is checked once more as it is sent.
        shelf: Told of all that is retained; what was sent through it before is not sent again.
        on_progress: Called with the bytes sent and the bytes to send, after each chunk.

    Raises:
        PackageError: A chunk is larger than the broker takes.
        IntegrityError: The package has changed since it was opened.
        CallerError: This version is released already, with other content.
        StagedError: It is not released, and the keys that are here are not enough to do so.
        RepositoryError: The repository lacks a key or a file, or a key stays locked.
        StorageError: The shelf cannot be written.
        BrokerError: There is no connection, or the broker refuses a message.
        TransferTimeoutError: The broker did not acknowledge a message.
    """
    _check_fits(link, package)
    target = package.manifest.target_name
    if target not in repository.targets() and not repository.ceremony.can_release():
        # Before megabytes are sent: this stages the release and raises, for want of keys.
        repository.add_target(target, package.manifest_bytes)
    total = all_chunks(package.manifest.files)
    missing = {chunk.sha256 for chunk in total} - shelf.sent
    to_send = sum(chunk.wire_bytes for chunk in total if chunk.sha256 in missing)
    # Before the first chunk: an audit that runs meanwhile then takes none of them for litter.
    shelf.add_package(target)
    shelf.put(topics.blob(sha256) for sha256 in missing)
    sent_bytes = 0
    for chunk, wire in package.wire_chunks():
        if chunk.sha256 not in missing:
            continue
        link.publish(topics.blob(chunk.sha256), wire, retain=True, wait_s=PUBLISH_TIMEOUT_S)
        shelf.sent.add(chunk.sha256)
        sent_bytes += len(wire)
        if on_progress:
            on_progress(sent_bytes, to_send)
    repository.add_target(target, package.manifest_bytes)
    publish_metadata(link, repository, shelf=shelf)
    return PublishResult(
        target=target, chunks=len(total), chunks_sent=len(missing), sent_bytes=sent_bytes
    )


def publish_metadata(link: Link, repository: Repository, *, shelf: Shelf) -> None:
    """Publishes the repository's TUF metadata and targets, signed afresh if that is due.

    Args:
        link: The connection.
        repository: Whose metadata.
        shelf: As in `publish_package`.

    Raises:
        PackageError: A document has more parts than a device reads.
        RepositoryError: The repository lacks a key or a file.
        StorageError: The shelf cannot be read or written.
        BrokerError: There is no connection, or the broker refuses a message.
        TransferTimeoutError: The broker did not acknowledge a message.
    """
    if repository.needs_refresh:
        repository.refresh_timestamp()
    for name, data in wanted_documents(repository, shelf):
        if name not in shelf.sent:
            publish_document(link, name, data, shelf=shelf)
        if name != _MUTABLE:
            shelf.sent.add(name)
    # After the root itself: a device waits for every version up to this one.
    version = str(repository.root_version).encode()
    link.publish(topics.ROOT_VERSION, version, retain=True, wait_s=PUBLISH_TIMEOUT_S)


def wanted_documents(repository: Repository, shelf: Shelf) -> Iterator[tuple[str, bytes]]:
    """Yields the documents that should be retained, in the order in which to publish them.

    These are all but the manifests of packages that were published and are not kept ready any
    more (`prune.kept_packages`).

    Raises:
        RepositoryError: A file is missing or broken.
        StorageError: The shelf cannot be read.
    """
    published, kept = shelf.packages(), kept_on_broker(shelf)
    released = repository.targets()
    dropped = {released.get(target) for target in published if target not in kept}
    wanted = {released[target] for target in kept if target in released}
    for name, data in repository.documents():
        if name not in dropped - wanted:
            yield name, data


def kept_on_broker(shelf: Shelf) -> set[str]:
    """Returns the packages that are kept ready (`prune.kept_packages`), by TUF target name.

    Raises:
        StorageError: The shelf cannot be read.
    """
    return kept_packages(shelf.packages(), (given.target for given in shelf.assignments()))


def assign(
    link: Link,
    repository: Repository,
    device: str,
    target: str,
    *,
    shelf: Shelf,
    trial: str | None = None,
    terms: Terms | None = None,
) -> Assignment:
    """Tells a device what it should run.

    Args:
        link: The connection.
        repository: Signs the assignment.
        device: The device.
        target: TUF target name of a released package.
        shelf: Remembers the assignment.
        trial: Copied into the device's report.
        terms: What the package must show there.

    Returns:
        The assignment; its counter identifies the report that will come.

    Raises:
        CallerError: The device id cannot be used, or the package is not released.
        RepositoryError: The repository lacks a key or a file.
        StorageError: The shelf cannot be written.
        BrokerError: There is no connection, or the broker refuses a message.
        TransferTimeoutError: The broker did not acknowledge it.
    """
    assignment, message = sign_assignment(
        repository, device, target, shelf=shelf, trial=trial, terms=terms
    )
    # The manifest may have been taken off the broker; its chunks are served when asked for.
    manifest = repository.targets()[target]
    if repository.needs_refresh or manifest not in shelf.sent:
        publish_metadata(link, repository, shelf=shelf)
    topic = topics.assignment(device)
    shelf.put([topic])
    link.publish(topic, message, retain=True, wait_s=PUBLISH_TIMEOUT_S)
    return assignment


def sign_assignment(
    repository: Repository,
    device: str,
    target: str,
    *,
    shelf: Shelf,
    trial: str | None = None,
    terms: Terms | None = None,
) -> tuple[Assignment, bytes]:
    """Signs an assignment and remembers it; it is not published here.

    Args:
        repository: Signs it.
        device: The device.
        target: TUF target name of a released package.
        shelf: Remembers it: what it lists is published by the next audit at the latest.
        trial: Copied into the device's report.
        terms: What the package must show there.

    Returns:
        The assignment and the message for the device.

    Raises:
        CallerError: The device id cannot be used, or the package is not released.
        RepositoryError: The repository lacks a key or a file.
        StorageError: The shelf cannot be written.
    """
    terms = terms or Terms()
    assignment = msgspec.structs.replace(
        repository.orders.new_assignment(device, target, trial=trial),
        gates=terms.gates,
        probation_s=terms.probation_s,
        group=terms.group,
    )
    message = repository.orders.sign_assignment(assignment)
    shelf.assign(assignment, message)
    return assignment, message


def _check_fits(link: Link, package: Package) -> None:
    """Refuses before the first message what would fail in the middle."""
    limit_bytes = link.max_payload_bytes
    if limit_bytes is None:
        return
    largest = max(chunk.wire_bytes for chunk in all_chunks(package.manifest.files))
    if largest > limit_bytes:
        raise PackageError(
            f"{package.path.name} has a chunk of {largest} bytes, and the broker takes at most "
            f"{limit_bytes}: build the package with a smaller chunk size"
        )
