"""TUF's metadata and targets, read from retained MQTT messages instead of HTTP.

A document is one or more messages `doc/<name>/<part>`; each says in its user property `parts` how
many there are. MQTT cannot say that a retained message does not exist, and TUF's client asks for
root versions until one is missing: so `root-version` tells which is the newest. That hint is not
signed. Who holds it back or lowers it gains what holding back the root itself would gain, and the
expiry of the metadata bounds both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from trimtab_agent.contract import topics
from trimtab_agent.errors import DocumentMissingError, FormatError
from trimtab_agent.window import Message, Subscriber, fetch_retained

MAX_PARTS = 128
"""Most parts of a document. Its bytes are bounded by `bounded_documents`."""

_ROOT = re.compile(r"(\d{1,9})\.root\.json")


class MqttDocuments:
    """Documents from a broker (`sources.Documents`).

    Args:
        link: The connection.
        timeout_s: Longest silence before a document counts as missing.
    """

    def __init__(self, link: Subscriber, *, timeout_s: float) -> None:
        self._link = link
        self._timeout_s = timeout_s

    def read(self, name: str) -> Iterator[bytes]:
        """Yields the parts of a document in order.

        Raises:
            DocumentMissingError: It is a root that is newer than the newest one published.
            TransferTimeoutError: A part did not come.
            FormatError: A part does not say how many there are, or says too many.
        """
        root = _ROOT.fullmatch(name)
        if root and int(root[1]) > self._newest_root():
            raise DocumentMissingError(f"{name} is not published yet")
        yield from self._parts(name)

    def _parts(self, name: str) -> Iterator[bytes]:
        """Yields a document's parts; several are asked for at once and put in order."""
        first = next(self._fetch([topics.document(name, 0)]))
        yield first.payload
        early: dict[str, bytes] = {}
        expected = [topics.document(name, part) for part in range(1, _count_parts(first))]
        position = 0
        for message in self._fetch(expected):
            early[message.topic] = message.payload
            while position < len(expected) and expected[position] in early:
                yield early.pop(expected[position])
                position += 1

    def _newest_root(self) -> int:
        """Returns the hint."""
        hint = next(self._fetch([topics.ROOT_VERSION])).payload
        if not re.fullmatch(rb"\d{1,9}", hint):
            raise FormatError(f"{topics.ROOT_VERSION} holds {hint[:20]!r}, not a number")
        return int(hint)

    def _fetch(self, names: list[str]) -> Iterator[Message]:
        return fetch_retained(self._link, names, timeout_s=self._timeout_s)


def _count_parts(message: Message) -> int:
    """Returns how many parts the document has of which `message` is one."""
    value = message.properties.get("parts", "")
    if not re.fullmatch(r"\d{1,4}", value) or not 1 <= int(value) <= MAX_PARTS:
        raise FormatError(
            f"{message.topic} has the user property parts={value!r}, not 1 to {MAX_PARTS}"
        )
    return int(value)
