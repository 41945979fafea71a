"""What every target's writer takes and gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
import onnx_ir as ir

Option = str | int | float | bool
"""The value of a session option, as a manifest can hold it."""


Form = Literal["onnx", "ort"]
"""What ONNX Runtime loads: `ort` is for its minimal builds."""


CPU_PROVIDER = "CPUExecutionProvider"


class WriteRequest(msgspec.Struct, kw_only=True, frozen=True):
    """What a file is to be called and to say of itself.

    Attributes:
        stem: File name without its ending.
        labels: Class names by class number, for files that can carry them.
        form: Of a file for ONNX Runtime.
        provider: ONNX Runtime's execution provider on the device, such as `QNNExecutionProvider`.
    """

    stem: str = "model"
    labels: tuple[str, ...] | None = None
    form: Form = "onnx"
    provider: str = CPU_PROVIDER


class Written(msgspec.Struct, kw_only=True, frozen=True):
    """What a writer has made.

    Attributes:
        path: The file to load; others that belong to it lie beside it.
        weight_bytes: The weights as stored in it.
        options: Session options, by the runtime's own names, that the file needs to do what its
            graph says. They go into the manifest.
    """

    path: Path
    weight_bytes: int
    options: dict[str, Option] = {}


Writer = Callable[[ir.Model, Path, WriteRequest], Written]
"""Writes a graph into a folder.

Raises:
    UnsupportedOperatorError: The target lacks operators of the graph; all are named.
    ExportError: The runtime's converter refuses the graph.
"""
