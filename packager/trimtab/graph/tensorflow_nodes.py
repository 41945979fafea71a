"""What every handler of tf2onnx does with its graph: add a constant, replace a node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def make_constant(ctx: Any, array: Any) -> str:
    """Adds a constant to tf2onnx's graph, and returns its name."""
    from tf2onnx.utils import make_name

    return str(ctx.make_const(make_name("trimtab_const"), np.asarray(array)).output[0])


def put(ctx: Any, node: Any, operator: str, inputs: Sequence[str], **attributes: Any) -> None:
    """Puts a new last node with the old one's name, output and type in its place."""
    name, outputs = node.name, list(node.output)
    dtype, shape = ctx.get_dtype(outputs[0]), ctx.get_shape(outputs[0])
    ctx.remove_node(name)
    ctx.make_node(
        operator,
        inputs,
        attr=attributes,
        name=name,
        outputs=outputs,
        shapes=[shape],
        dtypes=[dtype],
    )
