"""Small real models in each runtime's own format, made without a training framework.

Each takes the inputs `zeta` and `alpha` and gives `sum` = zeta + alpha and `difference` =
zeta - alpha. The names are in reverse alphabetical order, so that anything that sorts them shows.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

INPUTS = ("zeta", "alpha")
WIDTH = 3
DATA = Path(__file__).parents[1] / "agent" / "data"


def write_model(runtime: str, folder: Path, *, batch: int | None = None) -> Path:
    """Writes the model for `runtime` into `folder`; `batch` None leaves the first axis free."""
    return {"tflite": write_tflite, "onnxruntime": write_onnx, "openvino": write_openvino}[runtime](
        folder, batch
    )


def write_onnx(folder: Path, batch: int | None) -> Path:
    import onnx
    from onnx import TensorProto, helper

    def value(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch or "n", WIDTH])

    graph = helper.make_graph(
        [
            helper.make_node("Add", list(INPUTS), ["sum"]),
            helper.make_node("Sub", list(INPUTS), ["difference"]),
        ],
        "arithmetic",
        [value(name) for name in INPUTS],
        [value("sum"), value("difference")],
    )
    # Old enough for every onnxruntime that the agent accepts.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path


def write_square(folder: Path, dtype: str) -> Path:
    """Writes an ONNX model that squares `x`, of this type at the edge and float32 inside."""
    import onnx
    from onnx import TensorProto, helper

    edge = getattr(TensorProto, dtype.upper())
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["wide", "wide"], ["square"]),
            helper.make_node("Cast", ["square"], ["y"], to=edge),
        ],
        "square",
        [helper.make_tensor_value_info("x", edge, ["n", WIDTH])],
        [helper.make_tensor_value_info("y", edge, ["n", WIDTH])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / f"{dtype}.onnx"
    onnx.save(model, path)
    return path


def write_ort(folder: Path) -> Path:
    """Writes the model in the form of ONNX Runtime's minimal builds."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    path = folder / "model.ort"
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(
        str(write_onnx(folder, None)), options, providers=["CPUExecutionProvider"]
    )
    return path


def write_openvino(folder: Path, batch: int | None) -> Path:
    import openvino

    path = folder / "model.xml"
    openvino.save_model(openvino.Core().read_model(write_onnx(folder, batch)), path)
    return path


def write_tflite(folder: Path, batch: int | None) -> Path:
    """Copies the file that `support.tflite_runtime_files` has made."""
    path = folder / "model.tflite"
    shutil.copy(DATA / f"arithmetic-{'free' if batch is None else f'batch{batch}'}.tflite", path)
    return path


def write_golden(path: Path, samples: int = 4, *, error: float = 0.0) -> Path:
    """Writes golden samples of the model, the first output off by `error` in the last sample."""
    random = np.random.default_rng(7)
    zeta, alpha = random.normal(size=(2, samples, WIDTH)).astype(np.float32)
    total = zeta + alpha
    total[-1, -1] += error
    np.savez(path, in_0=zeta, in_1=alpha, out_0=total, out_1=zeta - alpha)
    return path
