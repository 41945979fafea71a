"""Values to bytes and back, the same way for every message and file of the contract.

Structs are JSON: a person with `mosquitto_sub` or a text editor can read them, and msgspec's
decoder names the path of a fault (`$.files[2].sha256`). Unknown fields are ignored, so that an
older device reads a newer host's messages; what must not be ignored is listed in a manifest's
`requires` (docs/decisions/0002).
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from trimtab_agent.errors import FormatError

T = TypeVar("T")


def encode(value: object) -> bytes:
    """Returns `value` as compact JSON, the same bytes for the same value every time.

    Args:
        value: A struct of the contract, or anything msgspec can encode.
    """
    return msgspec.json.encode(value, order="deterministic")


def encode_pretty(value: object) -> bytes:
    """Returns `value` as indented JSON that ends in a newline, for files that people read."""
    return msgspec.json.format(encode(value), indent=2) + b"\n"


def decode(data: bytes, kind: type[T], *, what: str) -> T:
    """Decodes JSON into a value of the type `kind`.

    Args:
        data: The JSON text, UTF-8.
        kind: The struct to decode into.
        what: What the bytes are and where they came from, for the error message.

    Raises:
        FormatError: The bytes are no JSON, are nested too deeply, or do not fit `kind`; the
            message ends with the path of the fault.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"{what} cannot be read as {kind.__name__}: {error}") from error
