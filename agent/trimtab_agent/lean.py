"""Importing libraries without what they import and this agent never uses.

What is left out is replaced by a stand-in that loads the real module if it is used after all. Other
imports of the same module, before or after, are real ones.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType

# Resident memory with what each of them imports in turn; Python 3.11, x86-64.
_UNUSED = (
    "urllib.request",  # 1.3 MB: paho-mqtt looks there for a proxy, if PySocks is installed
    "ipaddress",  # 0.2 MB: urllib.parse checks literal IPv6 addresses in URLs with it
    "bz2",  # 0.4 MB, this and the next two: shutil packs archives with them
    "lzma",
    "zlib",
)
_ABSENT = ("typing_extensions",)
"""1.2 MB: msgspec takes newer names for annotations from there where it is installed, as runtimes
have it, and does without where it is not. The agent's annotations are those of `typing`."""


def import_lean(*names: str) -> None:
    """Imports modules; whichever of them, or of theirs, imports an unused one gets a stand-in.

    What is optional for them, and of no use here, they do not find.

    It has to come before the first other import of these modules.
    """
    with contextlib.ExitStack() as stack:
        for unused in _UNUSED:
            stack.enter_context(_put_off(unused))
        for absent in _ABSENT:
            stack.enter_context(_hidden(absent))
        for name in names:
            importlib.import_module(name)


@contextlib.contextmanager
def _put_off(name: str) -> Iterator[None]:
    """Within the block an import of a module gives a stand-in, unless it is loaded already.

    Not `importlib.util.LazyLoader`: in Python 3.11 the import statement itself asks its module for
    an attribute, `__spec__`, and so loads it at once.
    """
    if name in sys.modules:
        yield
        return
    stand_in = ModuleType(name)
    # A module's own __getattr__ (PEP 562) is asked for what it lacks, and this one lacks all.
    vars(stand_in)["__getattr__"] = lambda wanted: getattr(importlib.import_module(name), wanted)
    sys.modules[name] = stand_in
    package, _, part = name.rpartition(".")
    if package:  # an import of a submodule makes it an attribute of its package
        setattr(importlib.import_module(package), part, stand_in)
    try:
        yield
    finally:
        del sys.modules[name]


@contextlib.contextmanager
def _hidden(name: str) -> Iterator[None]:
    """Within the block a module is as good as not installed, unless it is loaded already."""
    if name in sys.modules:
        yield
        return
    # None in sys.modules makes its import fail (docs.python.org, The import system).
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
