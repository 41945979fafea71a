"""The sources that a configuration names: `file:/media/usb`, `http://cache.plant:8080/trimtab`."""

from __future__ import annotations

from pathlib import Path

from trimtab_agent.errors import CallerError
from trimtab_agent.folder_source import Folder
from trimtab_agent.http_source import HttpSource

FileSource = Folder | HttpSource
"""A source that is no broker: documents, chunks and assignments."""


def open_source(url: str, *, timeout_s: float = 30.0, ca_file: str | None = None) -> FileSource:
    """Returns the source that a URL names. Nothing is opened or connected yet.

    Args:
        url: `file:/PATH`, `file:///PATH`, `http://HOST[:PORT][/PATH]` or `https://...`.
        timeout_s: Longest silence of a server.
        ca_file: For https, certificates to trust in place of the system's.

    Raises:
        CallerError: It is none of these.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "file":
        path = Path("/" + rest.lstrip("/"))
        if not rest.startswith("/") or (rest.startswith("//") and not rest.startswith("///")):
            raise CallerError(f"{url!r} names no absolute path: write file:/PATH")
        return Folder(path)
    if scheme in {"http", "https"}:
        return HttpSource(url, timeout_s=timeout_s, ca_file=ca_file)
    raise CallerError(f"{url!r} is no source: write file:/PATH, http://HOST/PATH or https://...")
