"""What kind of graph a model is: what `trimtab inspect` says besides the counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import msgspec
import onnx_ir as ir

from trimtab.graph.access import shape_of

_QUANTIZED = frozenset(
    {
        *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger"),
        *("ConvInteger", "QLinearConv", "QLinearMatMul"),
    }
)
CONTROL_FLOW = ("If", "Loop", "Scan")


class Port(msgspec.Struct, kw_only=True, frozen=True):
    """An input or an output.

    Attributes:
        name: As runtimes know it.
        shape: None stands for a free dimension; None as a whole, where shape inference failed.
        dtype: numpy's name, such as `float32`; None where it is unknown.
    """

    name: str
    shape: tuple[int | None, ...] | None
    dtype: str | None


class Description(msgspec.Struct, kw_only=True, frozen=True):
    """A graph's kind.

    Attributes:
        inputs: In the graph's order.
        outputs: In the graph's order.
        opset: Version of ONNX's operators.
        quantized: Says whether weights or activations are stored as integers with scales.
        half_precision: Says whether there are weights of 16 bits.
        operators: How often each occurs, most frequent first; those inside control flow count
            once, those that are not ONNX's carry their domain.
        control_flow: Nodes that branch or repeat by data, as `name (operator)`. Techniques leave
            what is inside them as it is.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    opset: int
    quantized: bool
    half_precision: bool
    operators: dict[str, int]
    control_flow: tuple[str, ...]


def describe(model: ir.Model) -> Description:
    """Describes a cleaned graph."""
    nodes = list(model.graph.all_nodes())
    counts = Counter(f"{n.domain}::{n.op_type}" if n.domain else n.op_type for n in nodes)
    return Description(
        inputs=tuple(map(_port, model.graph.inputs)),
        outputs=tuple(map(_port, model.graph.outputs)),
        opset=model.opset_imports.get("", 0),
        quantized=is_quantized(model),
        half_precision=any(dtype.bitwidth == 16 for dtype in _weight_types(model)),
        operators=dict(counts.most_common()),
        control_flow=tuple(
            f"{node.name} ({node.op_type})" for node in nodes if node.op_type in CONTROL_FLOW
        ),
    )


def is_quantized(model: ir.Model) -> bool:
    """Says whether a graph stores integers with scales, so that it cannot be trained as it is."""
    return any(node.op_type in _QUANTIZED for node in model.graph.all_nodes())


def _port(value: ir.Value) -> Port:
    dtype = None if value.dtype is None else str(value.dtype.numpy())
    return Port(name=str(value.name), shape=shape_of(value), dtype=dtype)


def _weight_types(model: ir.Model) -> Iterator[ir.DataType]:
    for value in model.graph.initializers.values():
        if value.const_value is not None and value.const_value.dtype.is_floating_point():
            yield value.const_value.dtype
