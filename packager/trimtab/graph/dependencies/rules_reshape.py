"""The rule of Reshape: labels go through element by element.

Read in the order of memory, the atoms of a tensor are a run that repeats: that of one sample, once
for each sample, or that of one sample's heads. So only the run matters, and how it falls onto the
axes of the new shape. Lengths are formulas, for that an axis of `batch * 4` holds whole runs of 4
heads must be proved.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import onnx_ir as ir

from trimtab.graph.access import constant
from trimtab.graph.dependencies.atoms import LabelArray
from trimtab.graph.dependencies.labels import Labels, dimensions, varying_axes
from trimtab.graph.dependencies.rules import data, input_at, rule
from trimtab.graph.shapes import Length, Lengths, divided


@rule("Reshape", "Flatten")
def reshape(node: ir.Node, labels: Labels) -> Sequence[LabelArray] | None:
    """Carry the labels through.

    A target computed at run time is understood where it is put together axis by axis, as
    `load_model` leaves it where there are two free lengths or more.
    """
    source = labels.of(data(node))
    old, new = labels.lengths(data(node)), labels.lengths(node.outputs[0])
    varying = varying_axes(source)
    if not varying:
        return [source.reshape((1,) * len(new))]
    target = input_at(node, 1)
    if node.op_type == "Reshape" and constant(target) is None and axis_by_axis(target) is None:
        return None
    laid = _carried(source, old, new)
    if laid is None and len(varying) > 1:
        # A free length lies between the axes: only the first can be followed.
        laid = _carried(labels.tie_along(source, varying[1:]), old, new)
    return None if laid is None else [laid]


def _carried(source: LabelArray, old: Lengths, new: Lengths) -> LabelArray | None:
    """Return the labels in the new shape; None where their places in it are not known."""
    varying = varying_axes(source)
    # What lies behind the run may have free lengths, if it keeps its place at the end.
    for end in range(varying[-1] + 1, len(old) + 1):
        run = _run(source, old[:end], varying[0])
        for start in range(len(new), -1, -1):
            if run is not None and prod(new[start:]) == prod(old[end:]):
                laid = _laid_out(run, new[:start])
                if laid is not None:
                    return laid.reshape(laid.shape + (1,) * (len(new) - start))
    return None


def axis_by_axis(target: ir.Value | None) -> ir.Node | None:
    """Return the Concat that puts a target together, one input for each axis; else None."""
    concat = target.producer() if target is not None else None
    if concat is None or concat.op_type != "Concat":
        return None
    single = all(value is not None and dimensions(value) == (1,) for value in concat.inputs)
    return concat if single else None


def _run(source: LabelArray, lengths: Lengths, first: int) -> LabelArray | None:
    """Return the atoms that repeat, from the first axis on along which they change.

    Args:
        source: Labels of a tensor.
        lengths: Of its axes, without those behind the run.
        first: The first axis along which atoms change.
    """
    inner = [length for length in lengths[first + 1 :] if isinstance(length, int)]
    if len(inner) != len(lengths) - first - 1:
        return None
    size = lengths[first]
    outer = size if isinstance(size, int) else source.shape[first]
    core = source[(0,) * first].reshape(source.shape[first : len(lengths)])
    return np.broadcast_to(core, (outer, *inner)).reshape(-1)


def _laid_out(run: LabelArray, lengths: Lengths) -> LabelArray | None:
    """Lay a run that repeats out along the last axes of a shape, as far as it reaches."""
    sizes: list[int] = []
    done = 1
    for axis in range(len(lengths) - 1, -1, -1):
        length = lengths[axis]
        if done == len(run):
            sizes.append(1)
        elif isinstance(length, Length):
            if axis > 0 and divided(length * done, len(run)) is None:
                return None
            sizes.append(len(run) // done)
            done = len(run)
        elif len(run) % (done * length) == 0:
            sizes.append(length)
            done *= length
        elif done * length % len(run) == 0:
            sizes.append(length)
            done *= length
            run = np.tile(run, done // len(run))
        else:
            return None
    return run.reshape(sizes[::-1]) if done == len(run) else None
