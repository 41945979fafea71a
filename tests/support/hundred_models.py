"""Small models of several kinds for three runtimes, written from their weights alone.

A model is its `Weights`: other weights give another file with the same inputs and outputs. So what
is done to weights before a file is written (a tensor lost, a scale wrong, a bit flipped) is what an
accident in a packager or a training pipeline would do, and nothing about the file looks wrong.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from support.hundred_tflite import dense_int8, layers_float

Array = npt.NDArray[Any]
Weights = dict[str, Array]
Files = dict[str, bytes]
"""Contents by path in a package; the first is the file that is loaded."""

Task = Literal["top1", "rmse"]
FEATURES, CLASSES, SIDE, STEPS = 16, 5, 16, 20


@dataclass(frozen=True)
class Family:
    """One kind of model in one runtime.

    Attributes:
        name: With the runtime, such as `layers-onnxruntime`.
        runtime: As in a manifest.
        draw: Makes weights as a training might.
        write: Makes the files.
        sample: Makes inputs, so many samples along the first axis.
        task: What labels are held against the first output by; None without labels.
        rounds: Whether activations are integers inside.
    """

    name: str
    runtime: str
    draw: Callable[[np.random.Generator], Weights]
    write: Callable[[Weights], Files]
    sample: Callable[[np.random.Generator, int], list[Array]]
    task: Task | None = None
    rounds: bool = False

    @property
    def kind(self) -> str:
        return self.name.partition("-")[0]


def _trained(rng: np.random.Generator, *shape: int, fan_in: int) -> Array:
    """Weights whose products have about the variance of what they multiply."""
    return rng.normal(0, np.sqrt(2 / fan_in), shape).astype(np.float32)


def draw_layers(rng: np.random.Generator, *, outputs: int = CLASSES, width: int = 96) -> Weights:
    sizes = [FEATURES, width, width, outputs]
    drawn: Weights = {}
    for index, (taken, made) in enumerate(itertools.pairwise(sizes)):
        drawn[f"w{index}"] = _trained(rng, taken, made, fan_in=taken)
        drawn[f"b{index}"] = rng.normal(0, 0.1, made).astype(np.float32)
    return drawn


def draw_image(rng: np.random.Generator) -> Weights:
    return {
        "w0": _trained(rng, 8, 3, 3, 3, fan_in=27),
        "w1": _trained(rng, 8, 8, 3, 3, fan_in=72),
        "w2": 8 * _trained(rng, 8, CLASSES, fan_in=8),
        "b2": rng.normal(0, 0.1, CLASSES).astype(np.float32),
    }


def draw_pair(rng: np.random.Generator) -> Weights:
    return {
        "w0": _trained(rng, FEATURES, CLASSES, fan_in=FEATURES),
        "w1": _trained(rng, FEATURES, CLASSES, fan_in=FEATURES),
    }


def draw_sequence(rng: np.random.Generator) -> Weights:
    return {
        "w0": _trained(rng, 6, 32, fan_in=6),
        "b0": rng.normal(0, 0.1, 32).astype(np.float32),
        "w1": 4 * _trained(rng, 32, CLASSES, fan_in=32),
    }


def draw_int8(rng: np.random.Generator) -> Weights:
    return {
        "w": np.clip(rng.normal(0, 40, (FEATURES, CLASSES)), -127, 127).astype(np.int8),
        "w_scale": np.array(0.02, np.float32),
        "x_scale": np.array(0.03, np.float32),
        "x_zero": np.array(-3, np.int8),
        "y_scale": np.array(0.12, np.float32),
        "y_zero": np.array(5, np.int8),
    }


def depth(weights: Weights) -> int:
    """How many layers `draw_layers` made, or what was done to it since."""
    return sum(name.startswith("w") for name in weights)


class _Graph:
    """An ONNX graph in the making; methods return the name of what they add."""

    def __init__(self, weights: Weights) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants = [numpy_helper.from_array(array, name) for name, array in weights.items()]

    def op(self, operator: str, *inputs: str, **attributes: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def constant(self, value: object, dtype: type = np.int64) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def finish(self, inputs: dict[str, list[Any]], outputs: dict[str, tuple[str, list[Any]]]):
        """Names the results and returns the file."""
        for name, (value, _) in outputs.items():
            self.nodes.append(helper.make_node("Identity", [value], [name]))

        def edge(name: str, shape: list[Any]) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

        graph = helper.make_graph(
            self.nodes,
            "g",
            [edge(name, shape) for name, shape in inputs.items()],
            [edge(name, shape) for name, (_, shape) in outputs.items()],
            self.constants,
        )
        opsets = [helper.make_opsetid("", 17)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def layers_onnx(weights: Weights) -> bytes:
    g, x = _Graph(weights), "x"
    last = depth(weights) - 1
    for index in range(last + 1):
        x = g.op("Gemm", x, f"w{index}", f"b{index}")
        x = g.op("Relu", x) if index < last else x
    outputs = weights[f"w{last}"].shape[1]
    return g.finish({"x": ["n", FEATURES]}, {"y": (x, ["n", outputs])})


def image_onnx(weights: Weights) -> bytes:
    g, x = _Graph(weights), "x"
    for name in ("w0", "w1"):
        x = g.op("Relu", g.op("Conv", x, name, pads=[1, 1, 1, 1]))
    pooled = g.op("Flatten", g.op("GlobalAveragePool", x))
    scores = g.op("Gemm", pooled, "w2", "b2")
    return g.finish({"x": ["n", 3, SIDE, SIDE]}, {"scores": (scores, ["n", CLASSES])})


def pair_onnx(weights: Weights) -> bytes:
    g = _Graph(weights)
    left, right = g.op("MatMul", "zeta", "w0"), g.op("MatMul", "alpha", "w1")
    shape = ["n", CLASSES]
    return g.finish(
        {"zeta": ["n", FEATURES], "alpha": ["n", FEATURES]},
        {"sum": (g.op("Add", left, right), shape), "difference": (g.op("Sub", left, right), shape)},
    )


def sequence_onnx(weights: Weights) -> bytes:
    """Any number of steps."""
    g = _Graph(weights)
    hidden = g.op("Relu", g.op("Add", g.op("MatMul", "x", "w0"), "b0"))
    mean = g.op("ReduceMean", hidden, axes=[1], keepdims=0)
    scores = g.op("MatMul", mean, "w1")
    return g.finish({"x": ["n", "steps", 6]}, {"scores": (scores, ["n", CLASSES])})


def int8_onnx(weights: Weights) -> bytes:
    """Pairs of QuantizeLinear and DequantizeLinear around a product, floats at the edges."""
    g = _Graph(weights)
    x = g.op("QuantizeLinear", "x", "x_scale", "x_zero")
    x = g.op("DequantizeLinear", x, "x_scale", "x_zero")
    y = g.op("MatMul", x, g.op("DequantizeLinear", "w", "w_scale"))
    y = g.op("QuantizeLinear", y, "y_scale", "y_zero")
    y = g.op("DequantizeLinear", y, "y_scale", "y_zero")
    return g.finish({"x": ["n", FEATURES]}, {"y": (y, ["n", CLASSES])})


def openvino_files(content: bytes) -> Files:
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        model = openvino.Core().read_model(content)
        openvino.save_model(model, path, compress_to_fp16=False)
        return {file.name: file.read_bytes() for file in (path, path.with_suffix(".bin"))}


def _features(rng: np.random.Generator, count: int) -> list[Array]:
    return [rng.normal(0, 1, (count, FEATURES)).astype(np.float32)]


def _two(rng: np.random.Generator, count: int) -> list[Array]:
    return [*_features(rng, count), *_features(rng, count)]


def _images(rng: np.random.Generator, count: int) -> list[Array]:
    """Smooth and not symmetric, as photographs are: transposed ones look different."""
    down, across = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    slopes = rng.normal(0, 2, (2, count, 3, 1, 1))
    noise = rng.normal(0, 0.3, (count, 3, SIDE, SIDE))
    return [(slopes[0] * down + slopes[1] * across**2 + noise).astype(np.float32)]


def _steps(rng: np.random.Generator, count: int) -> list[Array]:
    return [rng.normal(0, 1, (count, STEPS, 6)).astype(np.float32)]


def _integers(rng: np.random.Generator, count: int) -> list[Array]:
    return [rng.integers(-100, 101, (count, FEATURES)).astype(np.int8)]


def _families() -> tuple[Family, ...]:
    onnx_kinds: tuple[tuple[str, Any, Any, Any, Task | None, bool], ...] = (
        ("layers", draw_layers, layers_onnx, _features, "top1", False),
        ("image", draw_image, image_onnx, _images, "top1", False),
        ("pair", draw_pair, pair_onnx, _two, None, False),
        ("sequence", draw_sequence, sequence_onnx, _steps, "top1", False),
        ("value", lambda rng: draw_layers(rng, outputs=1), layers_onnx, _features, "rmse", False),
        ("int8", draw_int8, int8_onnx, _features, "top1", True),
    )
    made = []
    for kind, draw, write, sample, task, rounds in onnx_kinds:
        for runtime, wrap in (
            ("onnxruntime", lambda data: {"model.onnx": data}),
            ("openvino", openvino_files),
        ):
            made.append(
                Family(
                    name=f"{kind}-{runtime}",
                    runtime=runtime,
                    draw=draw,
                    write=lambda weights, write=write, wrap=wrap: wrap(write(weights)),
                    sample=sample,
                    task=task,
                    rounds=rounds,
                )
            )
    tflite = (
        ("layers", draw_layers, layers_float, _features, "top1", False),
        ("int8", draw_int8, dense_int8, _integers, None, True),
    )
    for kind, draw, write, sample, task, rounds in tflite:
        made.append(
            Family(
                name=f"{kind}-tflite",
                runtime="tflite",
                draw=draw,
                write=lambda weights, write=write: {"model.tflite": write(weights)},
                sample=sample,
                task=task,  # type: ignore[arg-type]
                rounds=rounds,
            )
        )
    return tuple(made)


FAMILIES = {family.name: family for family in _families()}
