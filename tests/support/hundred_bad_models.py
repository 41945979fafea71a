"""Packages whose model is not the one that was checked, cannot be loaded, or harms its process."""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from support.hundred_device import Surroundings
from support.hundred_kinds import Attack, Case, Kind
from support.hundred_models import Array, Files, Weights
from support.hundred_packages import is_wrong, with_golden, with_model
from trimtab_agent.config import HealthConfig

Change = Callable[[Case], Weights]
_FLOAT = ("layers", "image", "pair", "sequence", "value")
_DRAWN = (*_FLOAT, "int8")
_TRIES = 20
# What a file tells of its own integers shows before anything is run.
_WRONG = ("golden", "accuracy", "format")


def _tensors(weights: Weights) -> list[str]:
    """The matrices and kernels."""
    return [name for name in weights if name.startswith("w") and weights[name].ndim > 1]


def _pick(case: Case) -> str:
    return str(case.rng.choice(_tensors(case.weights)))


def _with(case: Case, name: str, value: Array) -> Weights:
    old = case.weights[name]
    return {**case.weights, name: np.asarray(value).reshape(old.shape).astype(old.dtype)}


def wrong_tensor(case: Case) -> Weights:
    """The values of another training run, or of another layer."""
    name = _pick(case)
    return _with(case, name, case.family.draw(case.rng)[name])


def shuffled_tensor(case: Case) -> Weights:
    name = _pick(case)
    return _with(case, name, case.rng.permutation(case.weights[name].ravel()))


def transposed_tensor(case: Case) -> Weights:
    """Written in the other order of axes, with the shape that it should have."""
    name = _pick(case)
    return _with(case, name, np.ascontiguousarray(case.weights[name].T))


def flipped_bits(case: Case) -> Weights:
    """Bits of the stored weights are other ones, one in two hundred."""
    name = _pick(case)
    raw = np.frombuffer(case.weights[name].tobytes(), np.uint8).copy()
    places = case.rng.choice(len(raw), max(1, len(raw) // 200), replace=False)
    raw[places] ^= np.uint8(1) << case.rng.integers(0, 8, len(places), dtype=np.uint8)
    return _with(case, name, np.frombuffer(raw.tobytes(), case.weights[name].dtype))


def _spoilt(case: Case, value: float, share: float) -> Weights:
    name = _pick(case)
    found = case.weights[name].copy()
    found[case.rng.random(found.shape) < share] = value
    found.flat[0] = value
    return _with(case, name, found)


def zeroed_layer(case: Case) -> Weights:
    name = _pick(case)
    return _with(case, name, np.zeros_like(case.weights[name]))


def scaled(case: Case, factor: float) -> Weights:
    name = _tensors(case.weights)[-1]
    return _with(case, name, case.weights[name] * np.float32(factor))


def permuted_outputs(case: Case) -> Weights:
    name = _tensors(case.weights)[-1]
    return _with(case, name, np.roll(case.weights[name], 1, axis=-1))


def missing_bias(case: Case) -> Weights:
    name = str(case.rng.choice([name for name in case.weights if name.startswith("b")]))
    return _with(case, name, np.zeros_like(case.weights[name]) - 1)


def wrong_zero_point(case: Case) -> Weights:
    return _with(case, "x_zero", case.weights["x_zero"] + case.rng.integers(25, 60))


def saturated(case: Case) -> Weights:
    """Multiplied before they were cut to 8 bits."""
    return _with(case, "w", np.clip(case.weights["w"].astype(np.int32) * 8, -127, 127))


def wrong_scale(case: Case) -> Weights:
    return _with(case, "y_scale", case.weights["y_scale"] * np.float32(0.5))


def another_model(case: Case) -> Weights:
    return case.family.draw(case.rng)


def _attack(change: Change, case: Case) -> Attack:
    """Draws until the answers are others: what nobody can see is not wrong."""
    for _ in range(_TRIES):
        weights = change(case)
        if is_wrong(case.family, case.made, weights):
            return Attack(with_model(case.made, case.family.write(weights)))
    raise AssertionError(f"{change} does no harm to {case.family.name}")


def _kind(name: str, change: Change, families: tuple[str, ...] | None = _FLOAT) -> Kind:
    return Kind(name, _WRONG, "refused", functools.partial(_attack, change), families)


def _layout(case: Case) -> Attack:
    """The golden samples' inputs lie in another order than the model takes them."""
    arrays = dict(case.made.samples.arrays)
    arrays["in_0"] = np.ascontiguousarray(np.swapaxes(arrays["in_0"], 2, 3))
    return Attack(with_golden(case.made, arrays))


def _swapped_labels(case: Case) -> Attack:
    """The outputs are as promised, and mean something else than the data says."""
    arrays = dict(case.made.samples.arrays)
    labels = arrays["labels"]
    if case.family.task == "top1":
        arrays["labels"] = (labels + 1) % arrays["out_0"].shape[1]
    else:
        arrays["labels"] = labels[::-1] * -2 + 5
    return Attack(with_golden(case.made, arrays))


def _file_attack(change: Callable[[Case, bytes], bytes], case: Case) -> Attack:
    files = case.made.files
    path = next(iter(files))
    return Attack(with_model(case.made, {path: change(case, files[path])}))


def _file_kind(
    name: str,
    change: Callable[[Case, bytes], bytes],
    reasons: tuple[str, ...] = ("format",),
    runtimes: tuple[str, ...] | None = None,
) -> Kind:
    attack = functools.partial(_file_attack, change)
    return Kind(name, reasons, "refused", attack, runtimes=runtimes)


def _cut_short(case: Case, content: bytes) -> bytes:
    return content[: int(len(content) * case.rng.uniform(0.2, 0.9))]


def _of_another_runtime(case: Case, _content: bytes) -> bytes:
    if case.family.runtime == "onnxruntime":
        return b"\x1c\0\0\0TFL3" + bytes(500)
    return b"\x08\x08\x12\x07trimtab" + bytes(500)


def _lost_weights(case: Case) -> Attack:
    """The weights' own file is cut short."""
    name = next(path for path in case.made.files if path.endswith(".bin"))
    content = case.made.files[name]
    return Attack(with_model(case.made, {name: content[: len(content) // 2]}))


def _harmful(case: Case, name: str) -> Files:
    """An ONNX file with the family's own edges that does harm before it gives right answers."""
    path = next(iter(case.made.files))
    model = onnx.load_from_string(case.made.files[path])
    graph = model.graph
    last = graph.output[0].name
    renamed = next(node for node in graph.node if last in node.output)
    renamed.output[list(renamed.output).index(last)] = "right"
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(0, np.int64), "nought"),
            numpy_helper.from_array(np.array(-(2**63), np.int64), "least"),
            numpy_helper.from_array(np.array(-1, np.int64), "minus"),
            numpy_helper.from_array(np.array([2**42], np.int64), "much"),
            numpy_helper.from_array(np.array(2**62, np.int64), "forever"),
            numpy_helper.from_array(np.array(True), "yes"),
            numpy_helper.from_array(np.array(0.0, np.float32), "zero"),
        ]
    )
    node = helper.make_node
    graph.node.append(node("ReduceMax", ["right"], ["peak"], keepdims=0))
    if name == "crash":
        graph.node.extend(
            [
                node("Cast", ["peak"], ["whole"], to=TensorProto.INT64),
                node("Mul", ["whole", "nought"], ["nothing"]),
                node("Add", ["nothing", "least"], ["dividend"]),
                node("Add", ["nothing", "minus"], ["divisor"]),
                node("Div", ["dividend", "divisor"], ["burst"]),
                node("Cast", ["burst"], ["harm"], to=TensorProto.FLOAT),
            ]
        )
    elif name == "memory":
        graph.node.extend(
            [
                node("Shape", ["right"], ["shape"], start=0, end=1),
                node("Mul", ["shape", "much"], ["size"]),
                node("ConstantOfShape", ["size"], ["block"]),
                node("ReduceMax", ["block"], ["harm"], keepdims=0),
            ]
        )
    else:
        value = helper.make_tensor_value_info
        body = helper.make_graph(
            [node("Identity", ["go"], ["on"]), node("Sin", ["held"], ["next"])],
            "body",
            [
                value("turn", TensorProto.INT64, []),
                value("go", TensorProto.BOOL, []),
                value("held", TensorProto.FLOAT, []),
            ],
            [value("on", TensorProto.BOOL, []), value("next", TensorProto.FLOAT, [])],
        )
        graph.node.append(node("Loop", ["forever", "yes", "peak"], ["harm"], body=body))
    graph.node.append(node("Mul", ["harm", "zero"], ["none"]))
    graph.node.append(node("Add", ["right", "none"], [last]))
    return {path: model.SerializeToString()}


def _harm(name: str, case: Case) -> Attack:
    grace_s = 2.5 if name == "hang" else None
    return Attack(
        with_model(case.made, _harmful(case, name)),
        around=Surroundings(grace_s=grace_s, health=HealthConfig()),
    )


def _harm_kind(name: str, harm: str, *reasons: str) -> Kind:
    attack = functools.partial(_harm, harm)
    return Kind(name, reasons, "refused", attack, _FLOAT, ("onnxruntime",))


# The least integer by -1 is a trap of x86 processors; others give a number.
_DEADLY = (
    (_harm_kind("crashes its process", "crash", "measurement"),)
    if platform.machine() in ("x86_64", "AMD64")
    else ()
)

KINDS: tuple[Kind, ...] = (
    _kind("wrong tensor", wrong_tensor),
    _kind("tensor shuffled", shuffled_tensor),
    _kind("tensor transposed", transposed_tensor),
    _kind("bits flipped", flipped_bits),
    _kind("NaN weights", lambda case: _spoilt(case, np.nan, 0.1)),
    _kind("infinite weights", lambda case: _spoilt(case, np.inf, 0.01)),
    _kind("layer zeroed", zeroed_layer, _DRAWN),
    _kind("scale doubled", lambda case: scaled(case, 2.0)),
    _kind("scale 1.1", lambda case: scaled(case, 1.1)),
    _kind("sign wrong", lambda case: scaled(case, -1.0), _DRAWN),
    _kind("outputs permuted", permuted_outputs, ("layers", "image", "pair", "sequence", "int8")),
    _kind("bias wrong", missing_bias, ("layers", "sequence")),
    # In a graph of floats the pair around an integer takes it off again.
    Kind("zero point wrong", _WRONG, "refused", functools.partial(_attack, wrong_zero_point),
         ("int8",), ("tflite",)),
    _kind("int8 saturated", saturated, ("int8",)),
    _kind("output scale wrong", wrong_scale, ("int8",)),
    _kind("another model", another_model, _DRAWN),
    Kind("input layout transposed", ("golden",), "refused", _layout, ("image",)),
    Kind("labels swapped", ("accuracy",), "refused", _swapped_labels,
         ("layers", "image", "sequence", "value")),
    _file_kind("model cut short", _cut_short),
    _file_kind("model empty", lambda case, content: b""),
    _file_kind("no model", lambda case, content: case.rng.bytes(2000)),
    _file_kind("model of another runtime", _of_another_runtime),
    Kind("weights file cut short", ("format", "golden"), "refused", _lost_weights,
         ("layers", "image", "value", "pair"), ("openvino",)),
    _harm_kind("hangs", "hang", "measurement"),
    _harm_kind("asks for 16 TB of memory", "memory", "device", "measurement"),
    *_DEADLY,
)  # fmt: skip
