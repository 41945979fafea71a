"""Int8 post-training quantization beside ONNX Runtime's and NNCF's, on one model and its data.

    python benchmarks/int8_ptq.py --model MODEL.onnx --data DATA.npz [--json RESULT.json]

The data has x_train, x_test, y_test and, if there is one, a harder test set x_hard with the same
labels. The first 256 training samples calibrate every method. All start from the same cleaned
graph (batch norms folded). Accuracy is measured in ONNX Runtime and in OpenVINO; latency is one
thread, batch 1, 5th percentile, in interleaved rounds, as a ratio to the float file in the same
runtime and round: the median of the rounds, and their smallest and largest.
Needs: trimtab, nncf.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import openvino

from trimtab.compress.calibrate import calibrate
from trimtab.compress.placement import quantized_groups
from trimtab.compress.quantize import quantize
from trimtab.graph.load import load_model

CALIBRATION_SAMPLES = 256
Infer = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    with np.load(arguments.data) as archive:
        data = {name: archive[name] for name in archive.files}
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(arguments.model, data, Path(folder), arguments.rounds)
    print_table(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def measure(
    model: Path, data: dict[str, np.ndarray], folder: Path, rounds: int
) -> list[dict[str, Any]]:
    samples = data["x_train"][:CALIBRATION_SAMPLES]
    files: dict[str, Path] = {}
    rows = []
    for name, make in methods(load_model(model), samples, folder):
        path = folder / f"{len(files)}.onnx"
        start = time.perf_counter()
        make(path)
        row: dict[str, Any] = {"method": name, "seconds": round(time.perf_counter() - start, 2)}
        row["size_bytes"] = path.stat().st_size
        files[name] = path
        rows.append(row)
    for runtime, load in (("onnxruntime", load_onnxruntime), ("openvino", load_openvino)):
        sessions = {name: load(path) for name, path in files.items()}
        ratios = latency_ratios(sessions, data["x_test"][:1], rounds)
        for row in rows:
            accuracy = accuracies(sessions[row["method"]], data)
            row[runtime] = {**accuracy, **ratios[row["method"]]}
    return rows


def methods(
    model: ir.Model, samples: np.ndarray, folder: Path
) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """Yield each method's name and a function that writes its file. The float model is first."""
    clean = folder / "clean.onnx"
    ir.save(model, clean)
    yield "float32", lambda path: ir.save(model, path)
    for method in ("minmax", "percentile", "mse"):
        yield f"trimtab {method}", lambda path, m=method: write_trimtab(model, samples, m, path)
    for kind in ("U8S8", "S8S8"):
        yield f"onnxruntime {kind}", lambda path, k=kind: write_ort(clean, samples, k, path)
    yield "nncf", lambda path: write_nncf(clean, samples, path)


def write_trimtab(model: ir.Model, samples: np.ndarray, method: Any, path: Path) -> None:
    values = [name for group in quantized_groups(model.graph) for name in group]
    ranges = calibrate(model, (samples,), values, method=method)
    ir.save(quantize(model, ranges), path)


def write_ort(source: Path, samples: np.ndarray, kind: str, path: Path) -> None:
    from onnxruntime import quantization

    name = onnx.load(source).graph.input[0].name

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.samples = iter(samples)

        def get_next(self) -> dict[str, np.ndarray] | None:
            sample = next(self.samples, None)
            return None if sample is None else {name: sample[None]}

    types = quantization.QuantType
    quantization.quantize_static(
        source,
        path,
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=types.QUInt8 if kind == "U8S8" else types.QInt8,
        weight_type=types.QInt8,
    )


def write_nncf(source: Path, samples: np.ndarray, path: Path) -> None:
    import nncf

    model = onnx.load(source)
    name = model.graph.input[0].name
    dataset = nncf.Dataset(list(samples), lambda sample: {name: sample[None]})
    onnx.save(nncf.quantize(model, dataset, subset_size=len(samples)), path)


def load_onnxruntime(path: Path) -> Infer:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


def load_openvino(path: Path) -> Infer:
    core = openvino.Core()
    model = core.read_model(path)
    model.reshape([1, *(dim.get_length() for dim in list(model.inputs[0].partial_shape)[1:])])
    options = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(model, "CPU", options).create_infer_request()
    return lambda x: request.infer({0: x})[0]


def accuracies(infer: Infer, data: dict[str, np.ndarray]) -> dict[str, float]:
    result = {}
    for name in ("x_test", "x_hard"):
        if name in data:
            answers = [int(infer(sample[None]).argmax()) for sample in data[name]]
            result[name.replace("x_", "accuracy_")] = float(np.mean(answers == data["y_test"]))
    return result


def latency_ratios(
    sessions: dict[str, Infer], sample: np.ndarray, rounds: int
) -> dict[str, dict[str, Any]]:
    """Time every file once in each round, so that a disturbance of the machine hits all alike."""
    times_us: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(rounds):
        for name, infer in sessions.items():
            times_us[name].append(fifth_percentile_us(infer, sample))
    baseline = np.asarray(times_us["float32"])
    result = {}
    for name, values in times_us.items():
        ratios = np.asarray(values) / baseline
        result[name] = {
            "latency_us": round(float(np.median(values)), 1),
            "ratio_median": round(float(np.median(ratios)), 3),
            "ratio_spread": [round(float(ratios.min()), 3), round(float(ratios.max()), 3)],
        }
    return result


def fifth_percentile_us(infer: Infer, sample: np.ndarray, count: int = 1000) -> float:
    for _ in range(count // 10):
        infer(sample)
    times = np.empty(count)
    for index in range(count):
        start = time.perf_counter()
        infer(sample)
        times[index] = time.perf_counter() - start
    return float(np.percentile(times, 5) * 1e6)


def print_table(rows: list[dict[str, Any]]) -> None:
    print("| method | s | bytes | runtime | clean | hard | p5 us | ratio to float (spread) |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        for runtime in ("onnxruntime", "openvino"):
            found = row[runtime]
            hard = f"{found['accuracy_hard']:.4f}" if "accuracy_hard" in found else "none"
            low, high = found["ratio_spread"]
            print(
                f"| {row['method']} | {row['seconds']} | {row['size_bytes']} | {runtime} "
                f"| {found['accuracy_test']:.4f} | {hard} | {found['latency_us']} "
                f"| {found['ratio_median']:.3f} ({low:.3f}-{high:.3f}) |"
            )


if __name__ == "__main__":
    main()
