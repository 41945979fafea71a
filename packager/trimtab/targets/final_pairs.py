"""The pair behind the last matrix product, taken out for runtimes that give its sums as floats.

ONNX Runtime and OpenVINO multiply integers and write floats where no pair follows. Answers then
keep their digits: rounded to 8 bits, 7 of 270 photos had two best classes (EfficientNet-Lite0).
Convolutions need the pair: without it ONNX Runtime computes them in float.
"""

from __future__ import annotations

import onnx_ir as ir

from trimtab.graph.access import only_consumer, replace_value
from trimtab.graph.answers import is_answer

_PRODUCTS = frozenset({"Gemm", "MatMul"})


def drop_final_pairs(model: ir.Model) -> int:
    """Removes pairs between a matrix product and the graph's answers, in place.

    Returns:
        How many.
    """
    pairs = [node for node in model.graph if _ends_in_answers(node)]
    for restore in pairs:
        rounding = restore.inputs[0].producer() if restore.inputs[0] is not None else None
        assert rounding is not None, "found by _ends_in_answers"
        exact = rounding.inputs[0]
        assert exact is not None, "what is rounded is given"
        output = restore.outputs[0]
        exact.type, exact.shape = output.type, output.shape
        replace_value(output, exact)
        model.graph.remove(restore, safe=True)
        model.graph.remove(rounding, safe=True)
    return len(pairs)


def _ends_in_answers(node: ir.Node) -> bool:
    if node.op_type != "DequantizeLinear" or not is_answer(node.outputs[0]):
        return False
    rounding = node.inputs[0].producer() if node.inputs[0] is not None else None
    if rounding is None or rounding.op_type != "QuantizeLinear":
        return False
    exact = rounding.inputs[0]
    product = None if exact is None else exact.producer()
    if exact is None or product is None or product.op_type not in _PRODUCTS:
        return False
    return only_consumer(exact) is rounding and only_consumer(rounding.outputs[0]) is node
