"""Checks that a pruned graph computes what the original does with the same channels at zero."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from trimtab.graph.access import set_initializer
from trimtab.graph.dependencies import Dependencies, analyse, remove_channels


def outputs(model: ir.Model) -> np.ndarray:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    given = zip(session.get_inputs(), inputs_for(model), strict=True)
    return session.run(None, {entry.name: array for entry, array in given})[0]


def inputs_for(model: ir.Model, samples: int = 3, free: int = 7) -> list[np.ndarray]:
    """Random inputs, one array each; of a free length beside the batch, `free` elements."""
    random = np.random.default_rng(7)
    arrays = []
    for value in model.graph.inputs:
        dims = [dim if isinstance(dim, int) else free for dim in value.shape][1:]
        x = random.normal(size=(samples, *dims)).astype(np.float32)
        is_index = value.dtype is not None and value.dtype.is_integer()
        arrays.append(np.abs(x * 3).astype(value.dtype.numpy()) if is_index else x)
    return arrays


def masked(model: ir.Model, dependencies: Dependencies, dropped: list[int]) -> ir.Model:
    """Sets every slice that would be cut to zero, where it is made and where it is read."""
    model = model.clone()
    for (name, axis), roots in dependencies.axes.items():
        value = model.graph.initializers.get(name)
        if value is not None:
            array = np.moveaxis(value.const_value.numpy().copy(), axis, 0)
            array[np.isin(roots, dropped)] = 0
            set_initializer(value, np.moveaxis(array, 0, axis))
    return model


def assert_prunes_exactly(model: ir.Model, seed: int = 0, share: float = 0.5) -> None:
    rng = np.random.default_rng(seed)
    dependencies = analyse(model)
    dropped = [
        int(number)
        for group in dependencies.groups
        for number in rng.permutation(group.classes)[: int(share * len(group.classes))]
    ]
    pruned = remove_channels(model, dependencies, dropped)
    expected = outputs(masked(model, dependencies, dropped))
    scale = np.abs(expected).max() + 1
    np.testing.assert_allclose(outputs(pruned) / scale, expected / scale, atol=1e-5)


def channels(model: ir.Model) -> list[int]:
    """How many channels the kernel of each group makes."""
    dependencies = analyse(model)
    return [dependencies.count(group, group.classes) for group in dependencies.groups]
