"""Tables of embeddings that stay small in ONNX Runtime: only the rows that are read become float.

GatherBlockQuantized: onnxruntime, docs/ContribOperators.md. A table of 30,000 rows of 384, read 64
rows at a time, took 4,277 us behind DequantizeLinear, which runs over the whole table, and 31 us in
this form; 19 us as float32.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from trimtab.graph.access import Array, add_initializer, attribute, constant
from trimtab.targets.stored_weights import StoredWeight, replace_layer

_SMALLEST_BLOCK, _LARGEST_BLOCK = 16, 128


def is_lookup(node: ir.Node, weight: StoredWeight) -> bool:
    """Says whether a layer reads whole rows of a stored table that the kernel can hold."""
    if node.op_type != "Gather" or node.inputs[0] is not weight.value:
        return False
    if attribute(node, "axis", 0) != 0 or weight.codes.ndim != 2 or weight.bits > 8:
        return False
    if weight.value is not weight.node.outputs[0]:
        return False
    per_row = weight.scales.shape[0] in (1, len(weight.codes))
    if weight.scales.shape[1] == 1:
        return per_row and weight.codes.shape[1] % _SMALLEST_BLOCK == 0
    block = weight.block or 0
    return per_row and block >= _SMALLEST_BLOCK and block & (block - 1) == 0


def use_table_kernel(graph: ir.Graph, node: ir.Node, weight: StoredWeight) -> None:
    """Puts a GatherBlockQuantized in the lookup's place."""
    rows, width = weight.codes.shape
    block = weight.block if weight.scales.shape[1] > 1 and weight.block else _block_size(width)
    zeros = np.broadcast_to(weight.zero_points, (rows, width // block))
    scales = np.ascontiguousarray(np.broadcast_to(weight.scales, (rows, width // block)))
    stem = str(node.outputs[0].name)
    operands = [
        weight.add_codes(graph, f"{stem}_codes", _packed(weight, weight.codes)),
        node.inputs[1],
        add_initializer(graph, f"{stem}_scales", scales),
        add_initializer(graph, f"{stem}_zero_points", _packed(weight, zeros)),
    ]
    attributes = {"bits": weight.bits, "block_size": block, "gather_axis": 0, "quantize_axis": 1}
    new = ir.node(
        "GatherBlockQuantized",
        operands,
        attributes,
        domain="com.microsoft",
        name=f"{node.name or stem}_GatherBlockQuantized",
    )
    replace_layer(graph, node, [new])


def cast_behind_lookup(graph: ir.Graph, cast: ir.Node) -> None:
    """Casts rows of a half-precision table once they are read, not the whole table on loading."""
    table = cast.inputs[0]
    if constant(table) is None:
        return
    for use in list(cast.outputs[0].uses()):
        node = use.node
        if node.op_type != "Gather" or use.idx != 0 or node.graph is not graph:
            continue
        if attribute(node, "axis", 0) != 0:
            continue
        found = ir.node("Gather", [table, node.inputs[1]], {"axis": 0})
        real = ir.node("Cast", found.outputs, {"to": int(ir.DataType.FLOAT)})
        replace_layer(graph, node, [found, real])


def _packed(weight: StoredWeight, codes: Array) -> Array:
    """Returns codes as the kernel's unsigned bytes, two of 4 bits in one, the first one lower."""
    offset = 1 << (weight.bits - 1) if weight.codes.min() < 0 else 0
    unsigned = (codes + offset).astype(np.uint8)
    if weight.bits == 8:
        return unsigned
    even = np.pad(unsigned, ((0, 0), (0, codes.shape[1] % 2)))
    return even[:, 0::2] | even[:, 1::2] << 4


def _block_size(width: int) -> int:
    """Returns the largest power of two that divides a row, up to what kernels are made for."""
    return min(_LARGEST_BLOCK, width & -width)
