"""Pairs behind matrix products, taken out for runtimes that give a product's sums as floats.

ONNX Runtime and OpenVINO multiply integers and write floats where no pair follows. So a pair whose
codes nobody reads costs time and digits for nothing: two operators for each product of a small
transformer, a tenth of its time. And answers keep their digits: rounded to 8 bits, 7 of 270 photos
had two best classes (EfficientNet-Lite0).

Convolutions need the pair: without it ONNX Runtime computes them in float.
"""

from __future__ import annotations

import onnx_ir as ir

from trimtab.graph.access import only_consumer, replace_value
from trimtab.graph.answers import is_answer

_PRODUCTS = frozenset({"Gemm", "MatMul"})
_ACTIVATIONS = frozenset({"Clip", "Relu"})
_FLOAT = frozenset({"Erf", "LayerNormalization", "LogSoftmax", "Neg", "Sigmoid", "Softmax", "Tanh"})
"""Operators for which neither runtime has an integer kernel."""


def drop_product_pairs(model: ir.Model) -> int:
    """Removes pairs between a matrix product and what reads floats only, in place.

    Returns:
        How many.
    """
    pairs = [node for node in model.graph if _is_idle(node)]
    for restore in pairs:
        rounding = restore.inputs[0].producer() if restore.inputs[0] is not None else None
        assert rounding is not None, "found by _is_idle"
        exact = rounding.inputs[0]
        assert exact is not None, "what is rounded is given"
        output = restore.outputs[0]
        exact.type, exact.shape = output.type, output.shape
        replace_value(output, exact)
        model.graph.remove(restore, safe=True)
        model.graph.remove(rounding, safe=True)
    return len(pairs)


def _is_idle(node: ir.Node) -> bool:
    if node.op_type != "DequantizeLinear":
        return False
    rounding = node.inputs[0].producer() if node.inputs[0] is not None else None
    if rounding is None or rounding.op_type != "QuantizeLinear":
        return False
    exact = rounding.inputs[0]
    product = None if exact is None else exact.producer()
    if exact is None or product is None or product.op_type not in _PRODUCTS:
        return False
    if only_consumer(exact) is not rounding or only_consumer(rounding.outputs[0]) is not node:
        return False
    result = node.outputs[0]
    readers = [use.node for use in result.uses()]
    return is_answer(result) or (
        not result.is_graph_output() and all(_reads_floats(reader) for reader in readers)
    )


def _reads_floats(node: ir.Node) -> bool:
    """Says whether a runtime computes an operator in float, whatever its operands come from.

    An addition is one of integers only if all its operands are codes, and its result becomes some.
    """
    if node.op_type in _FLOAT or node.domain:
        return True
    if node.op_type not in ("Add", "Mul", "Sub"):
        return False
    return not (_becomes_codes(node.outputs[0]) and all(map(_is_restored, node.inputs)))


def _is_restored(value: ir.Value | None) -> bool:
    node = None if value is None else value.producer()
    return node is not None and node.op_type == "DequantizeLinear"


def _becomes_codes(value: ir.Value) -> bool:
    readers = [use.node for use in value.uses()]
    if len(readers) == 1 and readers[0].op_type in _ACTIVATIONS:
        readers = [use.node for use in readers[0].outputs[0].uses()]
    return any(reader.op_type == "QuantizeLinear" for reader in readers)
