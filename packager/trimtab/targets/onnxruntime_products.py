"""Matrix products with stored weights, as ONNX Runtime's kernels want them.

MatMulNBits and its packing: onnxruntime, docs/ContribOperators.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from trimtab.graph.access import Array, add_initializer, attribute, shape_of
from trimtab.targets.stored_weights import StoredWeight, replace_layer

_SMALLEST_BLOCK, _LARGEST_BLOCK = 16, 128
_EXACT, _ROUNDED = 1, 4
"""Accuracy levels: activations as float32, or rounded to 8 bits block by block."""


@dataclass(frozen=True)
class Product:
    """A MatMul, or a Gemm that is one, whose right operand is stored.

    Attributes:
        node: The layer.
        codes: `[outputs, inputs]`.
        scales: `[outputs, blocks]`.
        zero_points: As the scales.
        block: Inputs that share a scale.
    """

    node: ir.Node
    weight: StoredWeight
    codes: Array
    scales: Array
    zero_points: Array
    block: int

    @property
    def bias(self) -> ir.Value | None:
        """What is added to the product, if anything."""
        return self.node.inputs[2] if len(self.node.inputs) > 2 else None


def product(node: ir.Node, weight: StoredWeight) -> Product | None:
    """Returns the layer's weight, outputs first; None if the layer is no such product."""
    if node.op_type not in ("MatMul", "Gemm") or node.inputs[1] is not weight.value:
        return None
    if weight.codes.ndim != 2 or weight.value is not weight.node.outputs[0]:
        return None
    outputs_last = not attribute(node, "transB", 0)
    if node.op_type == "Gemm":
        plain = attribute(node, "alpha", 1.0) == 1 and attribute(node, "beta", 1.0) == 1
        if not plain or attribute(node, "transA", 0):
            return None
    codes, scales, zeros = (
        array.T if outputs_last else array
        for array in (weight.codes, weight.scales, weight.zero_points)
    )
    if scales.shape[1] != 1 and weight.block is None:  # a scale for each input
        return None
    if scales.shape[0] not in (1, len(codes)):
        return None
    wide = (len(codes), scales.shape[1])
    block = weight.block if scales.shape[1] != 1 and weight.block else codes.shape[1]
    scales, zeros = np.broadcast_to(scales, wide), np.broadcast_to(zeros, wide)
    return Product(node, weight, codes, scales, zeros, block)


def fits_blocks(found: Product) -> bool:
    """Says whether MatMulNBits can hold the weight: blocks of 16 and more, or whole rows."""
    is_power = found.block & (found.block - 1) == 0
    return found.scales.shape[1] == 1 or (is_power and found.block >= _SMALLEST_BLOCK)


def use_block_kernel(graph: ir.Graph, found: Product) -> None:
    """Puts a MatMulNBits in the layer's place."""
    bits = found.weight.bits
    outputs, inputs = found.codes.shape
    block, per_row = _block_size(found)
    codes, zeros = (array - _least_code(found) for array in (found.codes, found.zero_points))
    padded = np.pad(codes, ((0, 0), (0, -inputs % block)))
    packed = _packed(padded, bits).reshape(outputs, per_row, block * bits // 8)
    scales, zeros = (_per_block(array, per_row) for array in (found.scales, zeros))
    stem = str(found.node.outputs[0].name)
    own_bias = _bias_of_kernel(found)
    operands: list[ir.Value | None] = [
        found.node.inputs[0],
        found.weight.add_codes(graph, f"{stem}_codes", packed),
        add_initializer(graph, f"{stem}_scales", scales),
        None,
        None,
        own_bias,
    ]
    if (zeros != 1 << (bits - 1)).any():  # the kernel's default
        operands[3] = add_initializer(graph, f"{stem}_zero_points", _packed(zeros, bits))
    while operands[-1] is None:
        operands.pop()
    level = _ROUNDED if found.weight.dynamic else _EXACT
    sizes = {"K": inputs, "N": outputs, "bits": bits, "block_size": block}
    attributes = {**sizes, "accuracy_level": level}
    new = [ir.node("MatMulNBits", operands, attributes, domain="com.microsoft")]
    if found.bias is not None and own_bias is None:
        new.append(ir.node("Add", [new[0].outputs[0], found.bias]))
    replace_layer(graph, found.node, new)


def _bias_of_kernel(found: Product) -> ir.Value | None:
    """Returns the bias if the kernel can add it: Gemm's may be broadcast, the kernel's not."""
    return found.bias if shape_of(found.bias) == (len(found.codes),) else None


def _block_size(found: Product) -> tuple[int, int]:
    """Returns the block's size and how many a row has; whole rows are cut, for kernels are not."""
    inputs = found.codes.shape[1]
    if found.scales.shape[1] > 1:
        return found.block, found.scales.shape[1]
    size = min(_LARGEST_BLOCK, max(_SMALLEST_BLOCK, 1 << (inputs - 1).bit_length()))
    return size, -(-inputs // size)


def _per_block(array: Array, count: int) -> Array:
    """Repeats what a whole row shares for each of its blocks."""
    return np.ascontiguousarray(np.broadcast_to(array, (len(array), count)))


def _least_code(found: Product) -> int:
    """Returns what signed codes are moved by: the kernel's are unsigned."""
    source = found.weight.node.inputs[0]
    signed = source is not None and source.dtype in (ir.DataType.INT4, ir.DataType.INT8)
    return -(1 << (found.weight.bits - 1)) if signed else 0


def _packed(codes: Array, bits: int) -> Array:
    """Packs the codes of each row into bytes, the first into the lowest bits."""
    if bits == 8:
        return codes.astype(np.uint8)
    even = np.pad(codes, ((0, 0), (0, codes.shape[1] % 2))).astype(np.uint8)
    return even[:, 0::2] | even[:, 1::2] << 4
