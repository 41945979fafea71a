"""Rewrites that make the exports of different frameworks look alike, one idea a file.

Each pass is a function `pass_(model) -> bool`: it changes the graph in place, keeps what the
graph computes, and says whether it changed anything. `clean` runs them until none does.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from trimtab.graph.access import infer_shapes
from trimtab.graph.clean.constants import (
    fold_constants,
    lift_constants,
    untie_uniform_constants,
)
from trimtab.graph.clean.control_flow import inline_known_branches, unroll_short_loops
from trimtab.graph.clean.dense import fuse_dense_bias
from trimtab.graph.clean.einsum import hoist_bias, lower_einsum
from trimtab.graph.clean.endings import sink_activations
from trimtab.graph.clean.flat_dense import unflatten_dense
from trimtab.graph.clean.layer_norm import fuse_layer_norms
from trimtab.graph.clean.names import tidy_names
from trimtab.graph.clean.pads import fold_pads
from trimtab.graph.clean.reshapes import fold_shapes
from trimtab.graph.clean.reversals import cancel_reversals
from trimtab.graph.clean.scaling import fold_scaling, split_batch_norm
from trimtab.graph.clean.singleton import cancel_squeezes, sink_unsqueeze
from trimtab.graph.clean.transposes import cancel_transposes, drop_identities
from trimtab.graph.clean.zero_states import drop_zero_states
from trimtab.graph.shapes import name_lengths

_PASSES = (
    lift_constants,
    fold_constants,
    untie_uniform_constants,
    inline_known_branches,
    unroll_short_loops,
    drop_identities,
    lower_einsum,
    hoist_bias,
    cancel_reversals,
    drop_zero_states,
    fold_shapes,
    fold_pads,
    unflatten_dense,
    fuse_layer_norms,
    sink_unsqueeze,
    cancel_squeezes,
    cancel_transposes,
    sink_activations,
    split_batch_norm,
    fold_scaling,
    fuse_dense_bias,
)

_MAX_ROUNDS = 50
"""Every pass shrinks the graph or moves a node towards the outputs, so that a fixed point comes
after a few rounds; this bound only keeps a mistake in a pass from looping for ever."""


def clean(model: ir.Model) -> ir.Model:
    """Returns a cleaned copy of `model`, with all shapes inferred.

    Constants are folded, branches and loops whose course is known written out, batch norms and
    scalings folded into the convolution or product before them, borders of zeros left to the
    convolution behind them, dead nodes dropped, 1-D convolutions unwrapped from 2-D ones,
    transposes, squeezes and reversals that undo each other removed, and everything but inputs and
    outputs named by its layer.
    """
    model = model.clone()
    common.InlinePass()(model)
    # Old exporters list weights among the inputs too, so that a caller could replace them.
    common.RemoveInitializersFromInputsPass()(model)
    _name_batch(model)
    declared = _forget_output_shapes(model)
    infer_shapes(model)
    for _ in range(_MAX_ROUNDS):
        changed = False
        for rewrite in _PASSES:
            if rewrite(model):
                changed = True
                common.RemoveUnusedNodesPass()(model)
                infer_shapes(model)
        if not changed:
            break
    common.RemoveUnusedNodesPass()(model)
    common.TopologicalSortPass()(model)
    tidy_names(model)
    infer_shapes(model)
    _recall_output_shapes(model, declared)
    _name_batch(model)
    name_lengths(model)
    return model


def _forget_output_shapes(model: ir.Model) -> list[ir.Shape | None]:
    """Leaves outputs' shapes to inference: exporters declare wrong ones, and rewrites believe them.

    Returns:
        What the outputs were declared to be.
    """
    declared = [value.shape for value in model.graph.outputs]
    for value in model.graph.outputs:
        producer = value.producer()
        if producer is not None and producer.domain in ("", "ai.onnx"):
            value.shape = None
    return declared


def _recall_output_shapes(model: ir.Model, declared: list[ir.Shape | None]) -> None:
    """Fills in what inference did not find, where the declared shape has as many dimensions."""
    for value, shape in zip(model.graph.outputs, declared, strict=True):
        if shape is None or (value.shape is not None and len(value.shape) != len(shape)):
            continue
        inferred = value.shape if value.shape is not None else [None] * len(shape)
        value.shape = ir.Shape(
            [dim if isinstance(dim, int) else old for dim, old in zip(inferred, shape, strict=True)]
        )


def _name_batch(model: ir.Model) -> None:
    """Calls the first dimension of every input and output `batch` where it is free."""
    for value in [*model.graph.inputs, *model.graph.outputs]:
        if value.shape is not None and len(value.shape) and not isinstance(value.shape[0], int):
            value.shape = ir.Shape(["batch", *list(value.shape)[1:]])
