"""Every message that the broker should retain, and the bytes it should have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from trimtab.fleet.documents import parts_of
from trimtab.fleet.library import Library
from trimtab.fleet.publish import kept_on_broker, wanted_documents
from trimtab.fleet.shelf import Shelf
from trimtab.package.read import read_manifest
from trimtab.package.sign import Repository
from trimtab_agent.contract import topics
from trimtab_agent.contract.chunks import all_chunks, sha256_hex
from trimtab_agent.contract.manifest import parse_manifest


class Expected(NamedTuple):
    """One message that should be retained.

    Attributes:
        topic: Where.
        sha256: Of its payload.
        size_bytes: Of its payload.
        load: Returns the payload; None where this host has it no more.
        properties: Its user properties.
    """

    topic: str
    sha256: str
    size_bytes: int
    load: Callable[[], bytes | None]
    properties: dict[str, str] | None = None


def expected_chunks(
    repository: Repository, packages: Path, shelf: Shelf, library: Library
) -> dict[str, Expected]:
    """Returns the chunks of the packages that are kept ready, by topic.

    Args:
        repository: Where the manifests of packages are whose files are gone.
        packages: The workspace's packages.
        shelf: What was published, and to whom it is assigned.
        library: Where chunks are loaded from, each when it is needed.

    Raises:
        PackageError: The manifest of a package is damaged.
        RepositoryError: A file of the repository is missing or broken.
        StorageError: The shelf cannot be read.
    """
    found = {}
    released = repository.targets()
    for target in sorted(kept_on_broker(shelf)):
        path = packages / f"{target.removesuffix('.json')}.trimtab"
        if path.is_file():
            manifest = read_manifest(path)
        elif target in released:
            manifest = parse_manifest(repository.target(target), what=target)
        else:
            continue
        for chunk in all_chunks(manifest.files):
            topic = topics.blob(chunk.sha256)
            load = partial(library.read, chunk.sha256)
            found[topic] = Expected(topic, chunk.sha256, chunk.wire_bytes, load)
    return found


def expected_small(repository: Repository, shelf: Shelf, part_bytes: int) -> dict[str, Expected]:
    """Returns everything else, by topic, in the order in which to publish it.

    Args:
        repository: Whose documents.
        shelf: What was published, and the assignments.
        part_bytes: Longest part of a document.

    Raises:
        RepositoryError: A file of the repository is missing or broken.
        PackageError: A document has more parts than a device reads.
        StorageError: The shelf cannot be read.
    """
    return {message.topic: message for message in _small(repository, shelf, part_bytes)}


def _small(repository: Repository, shelf: Shelf, part_bytes: int) -> Iterator[Expected]:
    for name, data in wanted_documents(repository, shelf):
        for topic, part, properties in reversed(parts_of(name, data, part_bytes)):
            yield _message(topic, part, properties)
    yield _message(topics.ROOT_VERSION, str(repository.root_version).encode())
    for assigned in shelf.assignments():
        yield _message(topics.assignment(assigned.device), assigned.message)


def _message(topic: str, payload: bytes, properties: dict[str, str] | None = None) -> Expected:
    return Expected(topic, sha256_hex(payload), len(payload), lambda: payload, properties)
