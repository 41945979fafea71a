"""YAML that people write: profiles, recipes, declarations of data."""

from __future__ import annotations

from typing import TypeVar

import msgspec
import yaml

from trimtab_agent.errors import FormatError

T = TypeVar("T")

MAX_NESTING = 50
"""Deeper than any file of Trimtab's. libyaml's composer recurses without a limit: 100,000 brackets
in a file end the process with a segmentation fault, which nothing can catch."""

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def decode_yaml(text: str | bytes, kind: type[T]) -> T:
    """Decodes YAML into a value of the type `kind`.

    Raises:
        FormatError: It is no YAML, is nested too deeply, or does not fit `kind`; the message is in
            one line.
    """
    try:
        _check_nesting(text)
        return msgspec.yaml.decode(text, type=kind)
    except (msgspec.DecodeError, yaml.YAMLError, ValueError) as error:
        # ValueError: PyYAML's own for a date such as 2026-99-99, and bytes that are no UTF-8.
        raise FormatError(" ".join(str(error).split())) from error


def _check_nesting(text: str | bytes) -> None:
    """Reads the text as a stream of events, which takes no recursion."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_NESTING:
            raise ValueError(f"nested more than {MAX_NESTING} deep at {event.start_mark}")
