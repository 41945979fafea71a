"""A signing repository as devices see it: by the documents that it would publish."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from trimtab.package.sign import Repository
from trimtab_agent.contract.messages import ASSIGNMENT_CONTEXT
from trimtab_agent.errors import DocumentMissingError
from trimtab_agent.trust import TrustStore


class PublishedDocuments:
    """What a repository published at one moment: the port `Documents` over it."""

    def __init__(self, repository: Repository) -> None:
        self.documents = dict(repository.documents())

    def read(self, name: str) -> Iterator[bytes]:
        if name not in self.documents:
            raise DocumentMissingError(f"{name} was not published")
        yield self.documents[name]


class Device:
    """The agent's trust, with memory of its own: what a device makes of a repository."""

    def __init__(self, directory: Path, root: bytes) -> None:
        self.directory = directory
        self.trust = TrustStore(directory, root)

    def update(self, source: Repository | PublishedDocuments) -> None:
        """Brings the metadata up to date, or raises what the agent raises."""
        self.trust.refresh(_published(source))

    def target(self, source: Repository | PublishedDocuments, name: str) -> bytes:
        return self.trust.target(_published(source), name)

    def accepts(
        self, source: Repository | PublishedDocuments, message: bytes, *, device: str, now
    ) -> bytes:
        """Returns the payload of a signed assignment, or raises what the agent raises."""
        return self.trust.payload(
            _published(source),
            message,
            what="the assignment",
            context=ASSIGNMENT_CONTEXT,
            device=device,
            now=now,
        )


def _published(source: Repository | PublishedDocuments) -> PublishedDocuments:
    return PublishedDocuments(source) if isinstance(source, Repository) else source
