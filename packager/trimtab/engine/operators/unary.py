"""How operators without parameters that work on each element alone are registered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trimtab.engine.layout import Laid
from trimtab.engine.registry import Call, operator


def unary(name: str, function: Callable[[Any, Any], Any]) -> None:
    """Registers `function(tf, x)` for an operator without attributes, whatever order x lies in."""

    @operator(name)
    def apply(call: Call) -> Laid:
        import tensorflow as tf

        return Laid(function(tf, call[0].tensor), call[0].axes)
