"""ZIP files whose bytes depend on nothing but their content.

A package and the golden samples in it are such files. Entries are stored, not deflated: chunks
are compressed already, and a stored entry cannot expand when it is read.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from typing import IO

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest date that the ZIP format can write (APPNOTE.TXT 4.4.6)."""

_UNIX = 3
"""`version made by`, upper byte (APPNOTE.TXT 4.4.2): the same on every host that builds."""


def write_archive(stream: IO[bytes], entries: Iterable[tuple[str, bytes]]) -> None:
    """Writes a ZIP file of stored entries with fixed dates and permissions.

    Args:
        stream: Where to write.
        entries: Names and contents, in the order that they are written.
    """
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries:
            info = zipfile.ZipInfo(name, date_time=_EPOCH)
            info.create_system = _UNIX
            info.external_attr = 0o100644 << 16
            archive.writestr(info, data)
