"""Where a file source keeps what a broker retains: the paths below its folder or its URL.

    blob/<first 2 digits>/<sha256>   one chunk, as on the wire
    doc/<name>                       a document, whole: TUF metadata or a TUF target
    root-version                     newest root version (ASCII digits)
    device/<id>/assignment           what the device should run, signed

docs/formats/messages.md is the prose form. A folder of plain files, so that any static HTTP
server can serve it.
"""

from __future__ import annotations

import re

from trimtab_agent.contract.topics import check_device_id
from trimtab_agent.errors import FormatError

ROOT_VERSION = "root-version"
MAX_DOCUMENT_BYTES = 12 * 1024 * 1024
"""Longest document: as much as 128 parts of 96 KiB over a broker."""

MAX_ASSIGNMENT_BYTES = 64 * 1024

_DOCUMENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def blob(sha256: str) -> str:
    """Returns the path of the chunk whose wire bytes have this SHA-256.

    Raises:
        FormatError: It is not 64 lower-case hexadecimal digits.
    """
    if not _SHA256.fullmatch(sha256):
        raise FormatError(f"{sha256!r} is not a SHA-256 in lower-case hexadecimal")
    return f"blob/{sha256[:2]}/{sha256}"


def document(name: str) -> str:
    """Returns the path of the document `name`.

    Raises:
        FormatError: The name could leave the folder, or is none.
    """
    if not _DOCUMENT.fullmatch(name):
        raise FormatError(
            f"{name!r} cannot name a document: letters, digits, '.', '_', '-' only, "
            f"and no '.' in front"
        )
    return f"doc/{name}"


def assignment(device: str) -> str:
    """Returns the path of a device's assignment.

    Raises:
        CallerError: The device id cannot be used.
    """
    return f"device/{check_device_id(device)}/assignment"
