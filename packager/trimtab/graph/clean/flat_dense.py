"""Dense layers over time: `Reshape(MatMul(Reshape(x), W))` becomes `MatMul(x, W)`.

TensorFlow multiplies matrices only, and PyTorch's older exporter writes a Gemm where there is a
bias, so that both lay the steps of all samples under one another before the layer and take them
apart behind it. A MatMul multiplies along the last axis whatever is before it.
"""

from __future__ import annotations

import onnx_ir as ir

from trimtab.graph.access import attribute, constant, only_consumer, replace_value
from trimtab.graph.clean.scaling import derived, is_plain_gemm
from trimtab.graph.shapes import Formulas

_PASSED = frozenset(
    {
        *("Relu", "LeakyRelu", "Sigmoid", "Tanh", "Elu", "Selu", "HardSigmoid", "HardSwish"),
        *("Gelu", "Softplus", "Softsign", "Clip", "Erf", "Identity", "Cast"),
    }
)
"""What may lie between the product and the second Reshape: it works on each element apart."""


def unflatten_dense(model: ir.Model) -> bool:
    """Lets dense layers read a tensor of more than two axes as it is."""
    if not any(node.op_type == "Reshape" for node in model.graph):
        return False
    known = Formulas(model.graph)
    changed = False
    for node in list(model.graph):
        if node.op_type in ("MatMul", "Gemm") and node.graph is not None:
            changed |= _unflatten(model, node, known)
    return changed


def _unflatten(model: ir.Model, node: ir.Node, known: Formulas) -> bool:
    weight = constant(node.inputs[1])
    before = node.inputs[0].producer() if node.inputs[0] is not None else None
    if before is None or before.op_type != "Reshape" or weight is None or weight.ndim != 2:
        return False
    source = before.inputs[0]
    lengths = known.shape(source)
    made = weight.shape[0 if attribute(node, "transB", 0) else 1]
    taken = weight.size // max(made, 1)
    if lengths is None or len(lengths) < 3 or lengths[-1] != taken:
        return False
    if len(known.shape(before.outputs[0]) or ()) != 2 or not _is_plain(node):
        return False
    chain = _until_reshape(node)
    after = chain[-1] if chain else None
    if after is None or known.shape(after.outputs[0]) != (*lengths[:-1], made):
        return False
    node.replace_input_with(0, source)
    replace_value(after.outputs[0], after.inputs[0])  # type: ignore[arg-type]  # a Reshape reads
    model.graph.remove(after, safe=True)
    if node.op_type == "Gemm":
        _write_as_matmul(model, node)
    return True


def _is_plain(node: ir.Node) -> bool:
    """Says whether a product can be written as MatMul and Add without touching its weight."""
    if node.op_type == "MatMul":
        return True
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    return is_plain_gemm(node) and (bias is None or constant(bias) is not None)


def _until_reshape(node: ir.Node) -> list[ir.Node]:
    """Returns the nodes behind a product up to a Reshape; none where they do not lead to one."""
    chain = [node]
    while (following := only_consumer(chain[-1].outputs[0])) is not None:
        chain.append(following)
        if following.op_type == "Reshape":
            return chain if following.inputs[0] is chain[-2].outputs[0] else []
        if not _goes_through(following):
            break
    return []


def _goes_through(node: ir.Node) -> bool:
    if node.op_type in _PASSED:
        return all(constant(value) is not None for value in node.inputs[1:] if value is not None)
    if node.op_type not in ("Add", "Sub", "Mul", "Div"):
        return False
    arrays = [array for value in node.inputs if (array := constant(value)) is not None]
    # Of two axes, the first one being steps: what is added must be the same for each.
    return len(arrays) == 1 and (arrays[0].ndim < 2 or arrays[0].shape[0] == 1)


def _write_as_matmul(model: ir.Model, gemm: ir.Node) -> None:
    weight = gemm.inputs[1]
    array = constant(weight)
    if attribute(gemm, "transB", 0) and array is not None:
        weight = derived(model, weight, array.T)
    product = ir.node("MatMul", [gemm.inputs[0], weight], name=gemm.name)
    made = [product]
    bias = gemm.inputs[2] if len(gemm.inputs) > 2 else None
    if bias is not None:
        made.append(ir.node("Add", [product.outputs[0], bias], name=f"{gemm.name}/Add"))
    model.graph.insert_before(gemm, made)
    replace_value(gemm.outputs[0], made[-1].outputs[0])
    model.graph.remove(gemm, safe=True)
