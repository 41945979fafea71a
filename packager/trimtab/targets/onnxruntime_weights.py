"""Which form each stored weight takes in a file for ONNX Runtime.

Measured on ONNX Runtime 1.31 (docs/decisions/0015-target-forms.md):

* A product with 4-bit weights, or with 8-bit ones whose activations may be rounded: MatMulNBits,
  which reads them as they are stored. With 8 bits and float activations it takes nine times as
  long as a product of floats, so these become floats on loading.
* A lookup in a table: GatherBlockQuantized.
* An LSTM whose activations may be rounded: DynamicQuantizeLSTM.
* Everything else, such as convolutions: floats made on loading. ConvInteger takes four times as
  long as a float convolution.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from trimtab.targets.onnxruntime_folded import fold
from trimtab.targets.onnxruntime_products import Product, fits_blocks, product, use_block_kernel
from trimtab.targets.onnxruntime_recurrent import is_dynamic_lstm, use_lstm_kernel
from trimtab.targets.onnxruntime_tables import cast_behind_lookup, is_lookup, use_table_kernel
from trimtab.targets.stored_weights import StoredWeight, stored_weights

_DOMAIN = "com.microsoft"


def lower_weights(model: ir.Model) -> None:
    """Gives every stored weight the form that ONNX Runtime runs best, in place."""
    graph = model.graph
    weights: dict[ir.Value | None, StoredWeight]
    weights = {weight.value: weight for weight in stored_weights(graph)}
    for node in list(graph):
        if is_dynamic_lstm(node, weights):
            use_lstm_kernel(graph, node, weights)
    for weight in weights.values():
        if weight.readers and not _use_kernels(graph, weight):
            fold(graph, weight)
    for node in [node for node in graph if node.op_type == "Cast"]:
        cast_behind_lookup(graph, node)
    common.RemoveUnusedNodesPass()(model)
    if any(node.domain == _DOMAIN for node in graph):
        model.opset_imports[_DOMAIN] = 1


def _use_kernels(graph: ir.Graph, weight: StoredWeight) -> bool:
    """Replaces all layers that read a weight; False if one of them has no kernel for it.

    Were some left, the weight would be in memory twice.
    """
    readers = [node for node, _ in weight.readers]
    if all(is_lookup(node, weight) for node in readers):
        for node in readers:
            use_table_kernel(graph, node, weight)
        return True
    found = [product(node, weight) for node in readers]
    products = [one for one in found if one is not None and _has_kernel(one)]
    if len(products) < len(readers):
        return False
    for one in products:
        use_block_kernel(graph, one)
    return True


def _has_kernel(found: Product) -> bool:
    """Says whether a product runs on stored codes no slower than on floats."""
    return fits_blocks(found) and (found.weight.bits == 4 or found.weight.dynamic)
