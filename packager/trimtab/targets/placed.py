"""Operators of an exported file as its runtime executes them, and which of them stayed float."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import onnx_ir as ir


class PlacedOperator(msgspec.Struct, kw_only=True, frozen=True):
    """One operator that the runtime executes.

    Attributes:
        name: What the file calls it, or its output.
        operator: The runtime's own name of its kind, such as `CONV_2D` or `QLinearConv`.
        dtype: What it computes with: `float32`, `int8`, ...
        reason: Why it computes in float although the file is quantized; None for all others.
    """

    name: str
    operator: str
    dtype: str
    reason: str | None = None


Placer = Callable[[Path, ir.Model], tuple[PlacedOperator, ...]]
"""Lists what a runtime makes of a file, given the graph that it was written from."""
