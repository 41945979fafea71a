"""Dense layers over time: `Reshape(MatMul(Reshape(x), W))` becomes `MatMul(x, W)`.

TensorFlow multiplies matrices only, and PyTorch's older exporter writes a Gemm where there is a
bias, so that both lay the steps of all samples under one another before the layer and take them
apart behind it. A MatMul multiplies along the last axis whatever is before it. Softmax before
opset 13 works on two axes, and ONNX's converter wraps newer ones in the same way.
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
    """Lets dense layers and Softmax read a tensor of more than two axes as it is."""
    if not any(node.op_type == "Reshape" for node in model.graph):
        return False
    known = Formulas(model.graph)
    changed = False
    for node in list(model.graph):
        width = _width(node) if node.graph is not None else None
        if width is not None:
            changed |= _unflatten(model, node, width, known)
    return changed


def _width(node: ir.Node) -> tuple[int | None, int | None] | None:
    """Returns the length of the last axis before and behind a node that works along it.

    Returns:
        None for other nodes; a pair of None where the length stays as it is.
    """
    if node.op_type in ("Softmax", "LogSoftmax"):
        return (None, None) if attribute(node, "axis", -1) in (1, -1) else None
    if node.op_type not in ("MatMul", "Gemm") or not _is_plain(node):
        return None
    weight = constant(node.inputs[1])
    if weight is None or weight.ndim != 2:
        return None
    taken, made = weight.shape[::-1] if attribute(node, "transB", 0) else weight.shape
    return taken, made


def _unflatten(
    model: ir.Model, node: ir.Node, width: tuple[int | None, int | None], known: Formulas
) -> bool:
    before = node.inputs[0].producer() if node.inputs[0] is not None else None
    if before is None or before.op_type not in ("Reshape", "Flatten"):
        return False
    source, flat = before.inputs[0], known.shape(before.outputs[0])
    lengths = known.shape(source)
    if lengths is None or len(lengths) < 3 or flat is None or len(flat) != 2:
        return False
    taken, made = (lengths[-1] if length is None else length for length in width)
    if lengths[-1] != taken or flat[-1] != taken:
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
    elif node.op_type != "MatMul":
        node.attributes["axis"] = ir.AttrInt64("axis", -1)
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
