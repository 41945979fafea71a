"""Packages with the right answers that cost too much: time, or memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from support.hundred_device import gates_off
from support.hundred_kinds import Attack, Case, Kind
from support.hundred_models import Weights, depth
from support.hundred_packages import make
from trimtab_agent.contract.manifest import Budget

_LAYERS = ("layers", "value")
_FLOAT = ("layers", "image", "pair", "sequence", "value")


def deeper(weights: Weights, extra: int) -> Weights:
    """Puts layers in that do work and change nothing: an identity between two ReLUs."""
    last = depth(weights) - 1
    width = len(weights[f"w{last}"])
    made = {name: array for name, array in weights.items() if name[1:] != str(last)}
    for index in range(last, last + extra):
        made[f"w{index}"] = np.eye(width, dtype=np.float32)
        made[f"b{index}"] = np.zeros(width, np.float32)
    made[f"w{last + extra}"] = weights[f"w{last}"]
    made[f"b{last + extra}"] = weights[f"b{last}"]
    return made


def _slower(case: Case, **options: Any) -> Attack:
    """Some three times as slow, or more."""
    made = case.remade(deeper(case.weights, int(case.rng.integers(25, 60))), **options)
    return Attack(made.package)


def _hungry(case: Case, **options: Any) -> Attack:
    """Takes 160 MB in every run and gives the right answers."""
    path = next(iter(case.made.files))
    model = onnx.load_from_string(case.made.files[path])
    graph = model.graph
    entry = graph.input[0].name
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array([40 << 20], np.int64), "much"),
            numpy_helper.from_array(np.array(1e-30, np.float32), "tiny"),
        ]
    )
    node = helper.make_node
    first = [
        node("Shape", [entry], ["count"], start=0, end=1),
        node("Mul", ["count", "much"], ["size"]),
        node("ConstantOfShape", ["size"], ["block"]),
        node("ReduceMax", ["block"], ["most"], keepdims=0),
        node("Mul", ["most", "tiny"], ["none"]),
        node("Add", [entry, "none"], ["entry"]),
    ]
    rest = list(graph.node)
    for each in rest:
        for index, name in enumerate(each.input):
            if name == entry:
                each.input[index] = "entry"
    del graph.node[:]
    graph.node.extend([*first, *rest])
    assert graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    files = {path: model.SerializeToString()}
    made = case.made.manifest
    hungry = make(case.family, files, case.rng, name=made.name, version=made.version, **options)
    return Attack(hungry.package, assignment=gates_off(memory_ratio=1.1))


KINDS: tuple[Kind, ...] = (
    Kind("slower than the running version", ("latency_running",), "refused", _slower, _LAYERS),
    Kind("slower than its budget", ("latency_budget",), "refused",
         lambda case: _slower(case, budget=Budget(latency_p95_us=15.0)), _LAYERS),
    Kind("hungrier than the running version", ("memory_running",), "refused", _hungry,
         _FLOAT, ("onnxruntime",)),
    Kind("hungrier than its budget", ("memory_budget",), "refused",
         lambda case: _hungry(case, budget=Budget(peak_memory_bytes=100 << 20)),
         _FLOAT, ("onnxruntime",)),
)  # fmt: skip
