"""What users write themselves: `module:function`, looked up in the working directory first."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trimtab.errors import DataError

_FORM = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_plugin(text: str) -> bool:
    """Says whether a text has the form `module:function`."""
    return _FORM.fullmatch(text) is not None


def load_plugin(text: str) -> Callable[..., Any]:
    """Imports a user's function.

    Args:
        text: `module:function`; the module is found as `python -m` finds it.

    Raises:
        DataError: There is no such module or function, or importing it fails.
    """
    module_name, _, name = text.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # importing runs the user's code, which may raise anything
        raise DataError(
            f"{text}: module {module_name} cannot be imported: {_say(error)}"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise DataError(f"{text}: module {module_name} has no function {name}")
    return function  # type: ignore[no-any-return]


def call_plugin(text: str, function: Callable[..., Any], *arguments: object) -> Any:
    """Calls a user's function.

    Raises:
        DataError: It raised something.
    """
    try:
        return function(*arguments)
    except Exception as error:  # the user's code may raise anything
        raise DataError(f"{text} failed: {_say(error)}") from error


def _say(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
