"""Packages that Trimtab can use and does not install: torch, tf-keras."""

from __future__ import annotations

import importlib
import os
from typing import Any

import pytest


def extra(name: str) -> Any:
    """Imports an optional package, or skips the module's tests.

    `scripts/test-extras` installs them and sets TRIMTAB_NEED_EXTRAS: nothing is skipped there.
    """
    if os.environ.get("TRIMTAB_NEED_EXTRAS"):
        return importlib.import_module(name)
    return pytest.importorskip(name)
