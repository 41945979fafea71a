"""Students for distillation: a user's own model, or a smaller one made of the teacher."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.errors import ModelError
from trimtab.graph.access import attribute, constant, set_initializer, shape_of
from trimtab.graph.residual import even_layers, remove_blocks, residual_blocks, units

if TYPE_CHECKING:
    from trimtab.compress.context import Context

_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN"})

Share = Annotated[float, msgspec.Meta(gt=0, le=1)]


class Student(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What is trained: a file, or the model made narrower, shallower, or both.

    Attributes:
        path: A model file with the same inputs and outputs.
        width: The share of the channels that each group of layers keeps.
        depth: The share of the residual blocks that are kept, of those that can be left out; what
            repeats together, such as a transformer's attention and feed-forward, goes together. Of
            models without such blocks: of the layers whose input and output have the same shape.
        weights: `inherited`: of what is kept, the strongest channels first. `random`: drawn anew.
    """

    path: str | None = None
    width: Share | None = None
    depth: Share | None = None
    weights: Literal["inherited", "random"] = "inherited"

    def __post_init__(self) -> None:
        """Check that the student is either given or derived.

        Raises:
            ValueError: It is both; msgspec adds where.
        """
        if self.path is not None and (self.width is not None or self.depth is not None):
            raise ValueError("give either a `path`, or `width` and `depth`, and not both")


def make_student(model: ir.Model, student: Student, context: Context) -> ir.Model:
    """Returns the model to train; `model` is left as it is.

    Args:
        model: What the student is derived from.
        student: How.
        context: Gives the profile, for channel counts, and the seed.

    Raises:
        ModelError: The file is no model or has other inputs or outputs; no block can be left out,
            or no channel.
    """
    if student.path is not None:
        return _from_file(model, Path(student.path), student.weights, context.seed)
    made = model.clone()
    if student.depth is not None:
        _make_shallower(made, student.depth, context)
    if student.width is not None:
        made = _make_narrower(made, student.width, context)
    if student.weights == "random":
        draw_weights(made, context.seed)
    return made


def draw_weights(model: ir.Model, seed: int) -> None:
    """Draws the weights of all layers anew, in place, and sets their biases to zero.

    Normal, with the variance that keeps the size of activations from layer to layer (He et al.
    2015, arXiv:1502.01852, equation 10). Scales and offsets of norms stay as they are.
    """
    random = np.random.default_rng(seed)
    done: set[ir.Value] = set()
    for node in model.graph:
        for value in node.inputs[1:] if node.op_type in _LAYERS else ():
            array = constant(value)
            if value is None or array is None or value in done or array.dtype != np.float32:
                continue
            done.add(value)
            if array.ndim < 2:
                set_initializer(value, np.zeros_like(array))
                continue
            spread = np.sqrt(2 / max(1, _fan_in(node, array)))
            set_initializer(value, random.normal(0, spread, array.shape).astype(np.float32))


def _from_file(
    model: ir.Model, path: Path, weights: Literal["inherited", "random"], seed: int
) -> ir.Model:
    from trimtab.graph.load import load_model

    student = load_model(path)
    for what in ("inputs", "outputs"):
        wanted, found = (
            [(shape_of(value)[1:], str(value.dtype)) for value in getattr(graph, what)]  # type: ignore[index]
            for graph in (model.graph, student.graph)
        )
        if wanted != found:
            raise ModelError(
                f"student {path}: its {what} must be those of the model, {_named(wanted)}; they "
                f"are {_named(found)}"
            )
    if weights == "random":
        draw_weights(student, seed)
    return student


def _named(signature: list[tuple[Any, str]]) -> str:
    return ", ".join(f"{dtype}{['batch', *shape]}" for shape, dtype in signature)


def _make_shallower(model: ir.Model, depth: float, context: Context) -> None:
    repeated = units(residual_blocks(model)) or [[layer] for layer in even_layers(model)]
    if not repeated:
        raise ModelError(
            "student: no residual block and no layer of the model can be left out (none has an "
            "input and an output of the same shape); leave `depth` out"
        )
    count = max(1, round(depth * len(repeated)))
    kept = set(np.linspace(0, len(repeated) - 1, count).round().astype(int).tolist())
    if depth < 1 and len(repeated) == 1:
        kept = set()
    gone = [block for index, unit in enumerate(repeated) if index not in kept for block in unit]
    remove_blocks(model, gone)
    context.log(f"student: {len(kept)} of {len(repeated)} blocks that can be left out are kept")


def _make_narrower(model: ir.Model, width: float, context: Context) -> ir.Model:
    from trimtab.compress.prune import PruneChannels, prune

    step = PruneChannels(keep=width, scope="uniform")
    result = prune(model, step, multiple=int(context.profile.channel_multiple.value))
    for group in result.groups:
        context.log(f"student: {group.name}: {group.before} -> {group.after} channels")
    return result.model


def _fan_in(node: ir.Node, weight: NDArray[Any]) -> int:
    """Returns how many products an output of the layer sums up."""
    shape = weight.shape
    if node.op_type == "Conv":
        return int(np.prod(shape[1:]))
    if node.op_type == "ConvTranspose":
        return int(shape[0] * np.prod(shape[2:]))
    if node.op_type == "MatMul" or (node.op_type == "Gemm" and not attribute(node, "transB", 0)):
        return int(shape[-2])
    return int(shape[-1])
