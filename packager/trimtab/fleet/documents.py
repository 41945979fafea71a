"""Documents that may be larger than a message: TUF metadata and manifests, cut into parts.

Every part says in its MQTT user property `parts` how many there are. The last part is published
first and part 0, which a device asks for first, last: whoever sees it finds the others.
"""

from __future__ import annotations

from trimtab.fleet.shelf import Shelf
from trimtab_agent.contract import topics
from trimtab_agent.contract.chunks import DEFAULT_CHUNK_BYTES
from trimtab_agent.errors import PackageError
from trimtab_agent.fetcher import MAX_PARTS
from trimtab_agent.link import Link

PUBLISH_TIMEOUT_S = 30.0
"""Longest wait for the broker to acknowledge one message."""


def part_limit_bytes(link: Link) -> int:
    """Returns the largest payload to publish over `link`: never more than a chunk."""
    limit = link.max_payload_bytes
    return DEFAULT_CHUNK_BYTES if limit is None else min(limit, DEFAULT_CHUNK_BYTES)


def cut(data: bytes, limit_bytes: int) -> list[bytes]:
    """Returns the parts of a document, one or more."""
    return [data[at : at + limit_bytes] for at in range(0, max(len(data), 1), limit_bytes)]


def parts_of(name: str, data: bytes, limit_bytes: int) -> list[tuple[str, bytes, dict[str, str]]]:
    """Returns topic, payload and user properties of each message that makes up a document.

    Args:
        name: As in its topic, such as `timestamp.json` or a SHA-256.
        data: Its content.
        limit_bytes: Longest payload.

    Raises:
        PackageError: There are more parts than a device reads.
    """
    parts = cut(data, limit_bytes)
    if len(parts) > MAX_PARTS:
        raise PackageError(
            f"document {name} has {len(data)} bytes, which is {len(parts)} messages of "
            f"{limit_bytes}; devices read at most {MAX_PARTS}: build with larger chunks, so that "
            f"the manifest lists fewer"
        )
    properties = {"parts": str(len(parts))}
    return [(topics.document(name, number), part, properties) for number, part in enumerate(parts)]


def publish_document(link: Link, name: str, data: bytes, *, shelf: Shelf) -> None:
    """Publishes a document, retained.

    Args:
        link: The connection.
        name: As in its topic, such as `timestamp.json` or a SHA-256.
        data: Its content.
        shelf: Told of the topics.

    Raises:
        PackageError: It has more parts than a device reads.
        StorageError: The shelf cannot be written.
        BrokerError: There is no connection, or the broker refuses a part.
        TransferTimeoutError: The broker did not acknowledge a part.
    """
    parts = parts_of(name, data, part_limit_bytes(link))
    shelf.put(topic for topic, _, _ in parts)
    for topic, part, properties in reversed(parts):
        link.publish(topic, part, retain=True, wait_s=PUBLISH_TIMEOUT_S, properties=properties)
