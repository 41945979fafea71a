"""Packages and assignments to the broker, as retained messages.

The order makes every state in between harmless: chunks, then the manifest, then the metadata
that lists it, `timestamp.json` last. A device that looks at any moment sees the release before
or the new one, whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trimtab.fleet.documents import PUBLISH_TIMEOUT_S, publish_document
from trimtab.package.read import Package
from trimtab.package.sign import Repository
from trimtab_agent.contract import topics
from trimtab_agent.contract.chunks import all_chunks
from trimtab_agent.contract.messages import Assignment
from trimtab_agent.errors import PackageError
from trimtab_agent.link import Link

_MUTABLE = "timestamp.json"
"""The only document that changes under its name; all others carry a version or a hash."""


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
    retained: set[str] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> PublishResult:
    """Releases a package and publishes all that a device needs to install it.

    Args:
        link: The connection.
        repository: Signs the release.
        package: Each chunk is checked once more as it is sent.
        retained: Chunk hashes and document names that this broker is known to hold; they are
            not sent again. What is sent is added, so one set can serve a whole session.
        on_progress: Called with the bytes sent and the bytes to send, after each chunk.

    Raises:
        PackageError: A chunk is larger than the broker takes.
        IntegrityError: The package has changed since it was opened.
        CallerError: This version is released already, with other content.
        RepositoryError: The repository lacks a key or a file.
        BrokerError: There is no connection, or the broker refuses a message.
        TransferTimeoutError: The broker did not acknowledge a message.
    """
    retained = set() if retained is None else retained
    _check_fits(link, package)
    total = all_chunks(package.manifest.files)
    missing = {chunk.sha256 for chunk in total} - retained
    to_send = sum(chunk.wire_bytes for chunk in total if chunk.sha256 in missing)
    sent_bytes = 0
    for chunk, wire in package.wire_chunks():
        if chunk.sha256 not in missing:
            continue
        link.publish(topics.blob(chunk.sha256), wire, retain=True, wait_s=PUBLISH_TIMEOUT_S)
        retained.add(chunk.sha256)
        sent_bytes += len(wire)
        if on_progress:
            on_progress(sent_bytes, to_send)
    target = package.manifest.target_name
    repository.add_target(target, package.manifest_bytes)
    publish_metadata(link, repository, retained=retained)
    return PublishResult(
        target=target, chunks=len(total), chunks_sent=len(missing), sent_bytes=sent_bytes
    )


def publish_metadata(
    link: Link, repository: Repository, *, retained: set[str] | None = None
) -> None:
    """Publishes the repository's TUF metadata and targets, signed afresh if that is due.

    Args:
        link: The connection.
        repository: Whose metadata.
        retained: As in `publish_package`.

    Raises:
        PackageError: A document has more parts than a device reads.
        RepositoryError: The repository lacks a key or a file.
        BrokerError: There is no connection, or the broker refuses a message.
        TransferTimeoutError: The broker did not acknowledge a message.
    """
    retained = set() if retained is None else retained
    if repository.needs_refresh:
        repository.refresh_timestamp()
    for name, data in repository.documents():
        if name not in retained:
            publish_document(link, name, data)
        if name != _MUTABLE:
            retained.add(name)
    # After the root itself: a device waits for every version up to this one.
    version = str(repository.root_version).encode()
    link.publish(topics.ROOT_VERSION, version, retain=True, wait_s=PUBLISH_TIMEOUT_S)


def assign(
    link: Link, repository: Repository, device: str, target: str, trial: str | None = None
) -> Assignment:
    """Tells a device what it should run.

    Args:
        link: The connection.
        repository: Signs the assignment.
        device: The device.
        target: TUF target name of a released package.
        trial: Copied into the device's report.

    Returns:
        The assignment; its counter identifies the report that will come.

    Raises:
        CallerError: The device id cannot be used, or the package is not released.
        RepositoryError: The repository lacks a key or a file.
        BrokerError: There is no connection, or the broker refuses the message.
        TransferTimeoutError: The broker did not acknowledge it.
    """
    if repository.needs_refresh:
        publish_metadata(link, repository)
    assignment = repository.new_assignment(device, target, trial=trial)
    message = repository.sign_assignment(assignment)
    link.publish(topics.assignment(device), message, retain=True, wait_s=PUBLISH_TIMEOUT_S)
    return assignment


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
