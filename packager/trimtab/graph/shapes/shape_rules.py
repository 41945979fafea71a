"""Shapes of single operators' outputs, as formulas.

Only what keeps, joins, splits or rearranges free dimensions needs a rule; lengths that shape
inference knows as numbers win in any case.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import onnx_ir as ir

from trimtab.graph.access import attribute, integers
from trimtab.graph.shapes.formulas import Formulas, Lengths, ShapeRule
from trimtab.graph.shapes.lengths import Length, divided


def _same(node: ir.Node, known: Formulas) -> list[Lengths] | None:
    shape = known.shape(node.inputs[0])
    return None if shape is None else [shape] * len(node.outputs)


def _normalised(node: ir.Node, known: Formulas) -> list[Lengths] | None:
    return _same(node, known) if len(node.outputs) == 1 else None


def broadcast(*shapes: Lengths) -> Lengths | None:
    """Returns the shape that operands broadcast to, or None where it cannot be proved."""
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    result: list[Length | int] = []
    for lengths in zip(*padded, strict=True):
        others = {length for length in lengths if length != 1}
        numbers = {length for length in others if isinstance(length, int)}
        if len(others) > 1 and len(numbers) != 1:
            return None
        result.append(next(iter(numbers or others), 1))
    return tuple(result)


def _elementwise(node: ir.Node, known: Formulas) -> list[Lengths] | None:
    shapes = [known.shape(value) for value in node.inputs if value is not None]
    given = [shape for shape in shapes if shape is not None]
    joined = broadcast(*given) if given and len(given) == len(shapes) else None
    return None if joined is None else [joined]


def _reshape(node: ir.Node, known: Formulas) -> list[Lengths] | None:
    source, target = known.shape(node.inputs[0]), known.of(node.inputs[1])
    if source is None or target is None:
        return None
    wanted = list(target.flat)
    if attribute(node, "allowzero", 0) and 0 in wanted:
        return None
    if any(dim == 0 and axis >= len(source) for axis, dim in enumerate(wanted)):
        return None
    lengths = [source[axis] if dim == 0 else dim for axis, dim in enumerate(wanted)]
    if -1 in lengths:
        rest = divided(prod(source), prod(length for length in lengths if length != -1))
        if rest is None:
            return None
        lengths[lengths.index(-1)] = rest
    return [tuple(lengths)]


def _flatten(node: ir.Node, known: Formulas) -> list[Lengths] | None:
    source = known.shape(node.inputs[0])
    if source is None:
        return None
    axis = attribute(node, "axis", 1) % (len(source) + 1)
    return [(prod(source[:axis]), prod(source[axis:]))]


def _transpose(node: ir.Node, known: Formulas) -> list[Lengths] | None:
    source = known.shape(node.inputs[0])
    if source is None:
        return None
    perm = attribute(node, "perm", None) or range(len(source))[::-1]
    return [tuple(source[axis] for axis in perm)]


def _unsqueeze(node: ir.Node, known: Formulas) -> list[Lengths] | None:
    source, axes = known.shape(node.inputs[0]), integers(node, 1, "axes")
    if source is None or axes is None:
        return None
    rank = len(source) + len(axes)
    new = {axis % rank for axis in axes}
    rest = iter(source)
    return [tuple(1 if axis in new else next(rest) for axis in range(rank))]


def _squeeze(node: ir.Node, known: Formulas) -> list[Lengths] | None:
    source, axes = known.shape(node.inputs[0]), integers(node, 1, "axes")
    if source is None or axes is None:
        return None
    gone = {axis % len(source) for axis in axes}
    return [tuple(length for axis, length in enumerate(source) if axis not in gone)]


def _concat(node: ir.Node, known: Formulas) -> list[Lengths] | None:
    shapes = [shape for value in node.inputs if (shape := known.shape(value)) is not None]
    if len(shapes) != len(node.inputs):
        return None
    axis = attribute(node, "axis", 0) % len(shapes[0])
    result = list(shapes[0])
    result[axis] = sum(shape[axis] for shape in shapes)
    return [tuple(result)]


def _gather(node: ir.Node, known: Formulas) -> list[Lengths] | None:
    source, places = known.shape(node.inputs[0]), known.shape(node.inputs[1])
    if source is None or places is None:
        return None
    axis = attribute(node, "axis", 0) % len(source)
    return [(*source[:axis], *places, *source[axis + 1 :])]


def _slice(node: ir.Node, known: Formulas) -> list[Lengths] | None:
    source = known.shape(node.inputs[0])
    bounds = [known.integers(value) for value in node.inputs[1:]]
    if source is None or len(bounds) < 2:
        return None
    if any(bound is None for bound in bounds):
        return _beginning(node, source, known)
    starts, ends, *more = (bound or [] for bound in bounds)
    axes = more[0] if more else list(range(len(starts)))
    steps = more[1] if len(more) > 1 else [1] * len(starts)
    result = list(source)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        length = source[axis]
        if isinstance(length, int):
            result[axis] = len(range(*slice(start, end, step).indices(length)))
        elif not _is_whole(start, end, step):
            return None
    return [tuple(result)]


def _beginning(node: ir.Node, source: Lengths, known: Formulas) -> list[Lengths] | None:
    """Knows the beginning of a table, as of positions, in the length of an input.

    The table is taken to be long enough: what adds its rows to an input fails if it is not.
    """
    start, end = known.integers(node.inputs[1]), known.of(node.inputs[2])
    axes = known.integers(node.inputs[3]) if len(node.inputs) > 3 else [0]
    table = node.inputs[0]
    if table is None or not table.is_initializer() or start != [0] or not axes or end is None:
        return None
    length = end.flat[0]
    steps = known.integers(node.inputs[4]) if len(node.inputs) > 4 else [1]
    if end.size != 1 or steps != [1] or not isinstance(length, Length):
        return None
    axis = axes[0] % len(source)
    return [(*source[:axis], length, *source[axis + 1 :])] if length.is_length else None


def _is_whole(start: int, end: int, step: int) -> bool:
    """Says whether a Slice of any length takes all of it, perhaps turned round."""
    if step == 1:
        return start == 0 and end >= 2**31 - 1
    return step == -1 and start == -1 and end <= -(2**31 - 1)


def _split(node: ir.Node, known: Formulas) -> list[Lengths] | None:
    source = known.shape(node.inputs[0])
    if source is None:
        return None
    axis = attribute(node, "axis", 0) % len(source)
    given, length = integers(node, 1, "split"), source[axis]
    if given is not None:
        sizes = list(given)
    elif isinstance(length, int):
        most = -(-length // len(node.outputs))  # only the last part may be shorter
        rest = length - most * (len(node.outputs) - 1)
        sizes = [most] * (len(node.outputs) - 1) + [rest]
    else:
        return None
    return [(*source[:axis], size, *source[axis + 1 :]) for size in sizes]


def _matmul(node: ir.Node, known: Formulas) -> list[Lengths] | None:
    left, right = known.shape(node.inputs[0]), known.shape(node.inputs[1])
    if left is None or right is None or min(len(left), len(right)) < 2:
        return None
    batch = broadcast(left[:-2], right[:-2]) if left[2:] or right[2:] else ()
    return None if batch is None else [(*batch, left[-2], right[-1])]


def _gemm(node: ir.Node, known: Formulas) -> list[Lengths] | None:
    left, right = known.shape(node.inputs[0]), known.shape(node.inputs[1])
    if left is None or right is None:
        return None
    rows = left[1] if attribute(node, "transA", 0) else left[0]
    return [(rows, right[0] if attribute(node, "transB", 0) else right[1])]


def _reduce(node: ir.Node, known: Formulas) -> list[Lengths] | None:
    source, axes = known.shape(node.inputs[0]), integers(node, 1, "axes")
    if source is None or axes is None:
        return None
    gone = {axis % len(source) for axis in axes}
    if attribute(node, "keepdims", 1):
        return [tuple(1 if axis in gone else length for axis, length in enumerate(source))]
    return [tuple(length for axis, length in enumerate(source) if axis not in gone)]


def _expand(node: ir.Node, known: Formulas) -> list[Lengths] | None:
    source, target = known.shape(node.inputs[0]), known.of(node.inputs[1])
    if source is None or target is None:
        return None
    joined = broadcast(source, tuple(target.flat))
    return None if joined is None else [joined]


def _of_its_numbers(node: ir.Node, known: Formulas) -> list[Lengths] | None:
    target = known.of(node.inputs[0])
    return None if target is None else [tuple(target.flat)]


def _tile(node: ir.Node, known: Formulas) -> list[Lengths] | None:
    source, repeats = known.shape(node.inputs[0]), known.of(node.inputs[1])
    if source is None or repeats is None:
        return None
    return [tuple(length * times for length, times in zip(source, repeats, strict=True))]


def _range(node: ir.Node, known: Formulas) -> list[Lengths] | None:
    start, limit, step = (known.of(value) for value in node.inputs[:3])
    if start is None or limit is None or step is None or step.item() != 1:
        return None
    return [(limit.item() - start.item(),)]


def _recurrent(node: ir.Node, known: Formulas) -> list[Lengths] | None:
    """Y is (steps, directions, batch, hidden), the states (directions, batch, hidden)."""
    source, weight = known.shape(node.inputs[0]), known.shape(node.inputs[2])
    if source is None or weight is None or attribute(node, "layout", 0):
        return None
    state = (weight[0], source[1], weight[2])
    return [(source[0], *state), state, state][: len(node.outputs)]


def _pad(node: ir.Node, known: Formulas) -> list[Lengths] | None:
    source, amounts = known.shape(node.inputs[0]), known.of(node.inputs[1])
    if source is None or amounts is None:
        return None
    axes: Sequence[int] | None = range(len(source))
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        axes = known.integers(node.inputs[3])
    if axes is None:
        return None
    lengths = list(source)
    for axis, added in zip(axes, amounts.reshape(2, -1).sum(axis=0), strict=True):
        lengths[axis] += added
    return [tuple(lengths)]


def _batch_stays(node: ir.Node, known: Formulas) -> list[Lengths] | None:
    """Knows axes 0 and 1 of what keeps the batch; free lengths along others are its own."""
    source, made = known.shape(node.inputs[0]), node.outputs[0].shape
    if source is None or made is None or len(made) != len(source) or len(node.outputs) != 1:
        return None
    rest = [
        dim if isinstance(dim, int) else Length.free(f"{node.outputs[0].name}[{axis}]")
        for axis, dim in enumerate(made)
    ]
    return [(source[0], *rest[1:])]


UNARY = frozenset(
    {
        *("Identity", "Cast", "Relu", "LeakyRelu", "Sigmoid", "Tanh", "Erf", "Exp", "Log", "Sqrt"),
        *("Neg", "Abs", "Reciprocal", "Floor", "Ceil", "Round", "Sign", "Not", "Softplus", "Cos"),
        *("HardSigmoid", "HardSwish", "Elu", "Selu", "Celu", "Gelu", "Mish", "Swish", "Clip"),
        *("Sin", "Softsign", "ThresholdedRelu", "IsNaN"),
    }
)
"""Operators that work on each element of one input apart."""

_KEEPS_SHAPE = (
    *("Softmax", "LogSoftmax", "LpNormalization", "BatchNormalization", "InstanceNormalization"),
    *("GroupNormalization", "RMSNormalization", "PRelu", "CumSum", "Dropout", "Trilu"),
    *("QuantizeLinear", "DequantizeLinear"),
)
ELEMENTWISE = frozenset(
    {
        *("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Mean", "Mod", "Where", "Equal"),
        *("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Xor"),
    }
)
"""Operators whose operands broadcast."""

SHAPE_RULES: dict[str, ShapeRule] = {
    **dict.fromkeys(UNARY, _same),
    **dict.fromkeys(_KEEPS_SHAPE, _same),
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2"), _reduce),
    **dict.fromkeys(("ReduceProd", "ReduceSumSquare"), _reduce),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
    **dict.fromkeys(("Conv", "ConvTranspose", "MaxPool", "AveragePool"), _batch_stays),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool", "Resize"), _batch_stays),
    "Concat": _concat,
    "ConstantOfShape": _of_its_numbers,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "LayerNormalization": _normalised,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
