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

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient.fetcher import FetcherInterface

from trimtab_agent.contract import topics
from trimtab_agent.errors import FormatError
from trimtab_agent.window import Message, Subscriber, fetch_retained

MAX_PARTS = 128
"""Most parts of a document: at 96 KiB a part, 12 MiB. TUF's client bounds the bytes as well."""

_ROOT = re.compile(r"(\d{1,9})\.root\.json")


def read_document(link: Subscriber, name: str, *, timeout_s: float) -> Iterator[bytes]:
    """Yields the parts of a document in order.

    Args:
        link: The connection.
        name: The document's name, such as `timestamp.json` or a SHA-256.
        timeout_s: Longest silence.

    Raises:
        TransferTimeoutError: A part did not come.
        FormatError: A part does not say how many there are, or says too many.
    """
    first = next(fetch_retained(link, [topics.document(name, 0)], timeout_s=timeout_s))
    yield first.payload
    parts = _parts(first)
    early: dict[str, bytes] = {}
    expected = [topics.document(name, part) for part in range(1, parts)]
    position = 0
    for message in fetch_retained(link, expected, timeout_s=timeout_s):
        early[message.topic] = message.payload
        while position < len(expected) and expected[position] in early:
            yield early.pop(expected[position])
            position += 1


def _parts(message: Message) -> int:
    """Returns how many parts the document has of which `message` is one."""
    value = message.properties.get("parts", "")
    if not re.fullmatch(r"\d{1,4}", value) or not 1 <= int(value) <= MAX_PARTS:
        raise FormatError(
            f"{message.topic} has the user property parts={value!r}, not 1 to {MAX_PARTS}"
        )
    return int(value)


class MqttFetcher(FetcherInterface):
    """TUF's fetcher over a link: the last component of a URL is a document's name.

    Args:
        link: The connection.
        timeout_s: Longest silence before a document counts as missing.
    """

    def __init__(self, link: Subscriber, *, timeout_s: float) -> None:
        self._link = link
        self._timeout_s = timeout_s

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.rpartition("/")[2]
        root = _ROOT.fullmatch(name)
        if root and int(root[1]) > self._newest_root():
            raise DownloadHTTPError(f"{name} is not published yet", 404)
        return read_document(self._link, name, timeout_s=self._timeout_s)

    def _newest_root(self) -> int:
        """Returns the hint."""
        hint = next(
            fetch_retained(self._link, [topics.ROOT_VERSION], timeout_s=self._timeout_s)
        ).payload
        if not re.fullmatch(rb"\d{1,9}", hint):
            raise FormatError(f"{topics.ROOT_VERSION} holds {hint[:20]!r}, not a number")
        return int(hint)
