"""Inputs that are almost right: seeded changes to real examples, of JSON by its structure.

Bytes that are random from the start are refused at the first check. What finds faults keeps most
of a valid example: one field with another type, one number that is too large, one bit.
"""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

Mutator = Callable[[random.Random, bytes], bytes]

DEPTH = 100_000
"""Nesting that no recursive reader survives."""

_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**53 + 1, 2**63, -(2**63) - 1, 2**64, 10**400, 0.5, -0.0,
    1e308, 5e-324, "", "\0", "..", "../../etc/passwd", "/", "a" * 70_000, "\u202e", "\U0001f600",
    "2026-11-22T00:00:00Z", "9999-99-99T99:99:99Z", "f" * 64, "NaN", [], {}, [[]], [None] * 3,
    {"": {}}, [0] * 20_000,
)  # fmt: skip
_LITERALS = (
    b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"1E400000", b"00", b"0x10",
    b"9" * 5000,
    b'"\\ud800"', b'"\\udfff\\ud800"', b'"\xed\xa0\x80"', b'"\xff"', b'"\\u0000"', b'"\\x"',
    b"[" * DEPTH, b"[" * DEPTH + b"]" * DEPTH, b'{"a":' * DEPTH, b"{}{}", b"", b"nul", b"//",
)  # fmt: skip
_SCALAR = re.compile(rb'"(?:[^"\\]|\\.)*"(?!\s*:)|-?\d[\d.eE+-]*|true|false|null')
_PAIR = re.compile(rb'"\w+"\s*:\s*(?:"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*|true|false|null)')


def change_json(chance: random.Random, data: bytes) -> bytes:
    """Changes one to three places of a JSON document by its structure, or its text."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return change_bytes(chance, data)
    if chance.random() < 0.4:
        return change_json_text(chance, data)
    for _ in range(chance.randint(1, 3)):
        value = _change(chance, value)
    return json.dumps(value, separators=(",", ":")).encode()


def _change(chance: random.Random, value: Any) -> Any:
    """Replaces, drops, doubles or renames something at a random place."""
    places = list(_places(value))
    if not places:
        return copy.deepcopy(chance.choice(_VALUES))
    holder, key = chance.choice(places)
    action = chance.random()
    if action < 0.6:
        holder[key] = copy.deepcopy(chance.choice(_VALUES))
    elif action < 0.75:
        del holder[key]
    elif action < 0.9:
        other_holder, other_key = chance.choice(places)
        holder[key] = copy.deepcopy(other_holder[other_key])
    elif isinstance(holder, list):
        holder.extend([holder[key]] * chance.choice((1, 1000)))
    else:
        holder[chance.choice(("", "__class__", key + "x", "\ud800"))] = holder.pop(key)
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Returns every element of a document: what holds it, and its key or index."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        if isinstance(holder, dict):
            items: Sequence[tuple[Any, Any]] = list(holder.items())
        elif isinstance(holder, list):
            items = list(enumerate(holder[:50]))
        else:
            continue
        found += [(holder, key) for key, _ in items]
        waiting += [child for _, child in items]
    return found


def change_json_text(chance: random.Random, data: bytes) -> bytes:
    """Puts text in place of a value that no JSON writer would write, or doubles a key."""
    if chance.random() < 0.2 and (pairs := list(_PAIR.finditer(data))):
        pair = chance.choice(pairs)
        return data[: pair.end()] + b"," + pair[0] + data[pair.end() :]
    scalars = list(_SCALAR.finditer(data))
    if not scalars:
        return chance.choice(_LITERALS)
    scalar = chance.choice(scalars)
    return data[: scalar.start()] + chance.choice(_LITERALS) + data[scalar.end() :]


def change_bytes(chance: random.Random, data: bytes) -> bytes:
    """Flips, cuts, doubles, drops or overwrites bytes, one to four times."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        if not changed:
            return chance.randbytes(chance.randint(0, 64))
        start = chance.randrange(len(changed))
        stop = min(len(changed), start + chance.choice((1, 1, 2, 4, 8, 64, 1024)))
        action = chance.randrange(7)
        if action <= 1:
            changed[start] ^= 1 << chance.randrange(8)
        elif action == 2:
            del changed[start:]
        elif action == 3:
            del changed[start:stop]
        elif action == 4:
            changed[start:start] = changed[start:stop]
        elif action == 5:
            changed[start:stop] = chance.randbytes(stop - start)
        else:
            changed[start:stop] = chance.choice((b"\0", b"\xff", b"\x80", b"\x7f")) * (stop - start)
    return bytes(changed)


def change_text(chance: random.Random, data: bytes) -> bytes:
    """Changes TOML, YAML or a URL: bytes, a line twice, or a value of another kind."""
    lines = data.splitlines(keepends=True)
    action = chance.random()
    if action < 0.3 or not lines:
        return change_bytes(chance, data)
    index = chance.randrange(len(lines))
    if action < 0.45:
        lines[index:index] = [lines[index]]
    elif action < 0.9:
        head, mark, _ = re.split(rb"([=:])", lines[index] + b"=", maxsplit=1)
        value = chance.choice((*_LITERALS, *(json.dumps(v).encode() for v in _VALUES)))
        lines[index] = head + mark + b" " + value + b"\n"
    else:
        del lines[index]
    return b"".join(lines)
