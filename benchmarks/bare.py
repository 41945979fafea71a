"""The runtimes' own calls, without the agent's checks around them: what is timed.

The checks take some microseconds of Python, which would hide part of the difference between two
files of 30. Sessions are set up as the agent sets them up, on one thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from timing import Run

Arrays = Sequence[NDArray[Any]]


def bare_run(runtime: str, path: Path, options: Mapping[str, Any], arrays: Arrays) -> Run:
    """Returns a function that runs a file once on these inputs and fetches what comes out."""
    return {"tflite": _tflite, "onnxruntime": _onnxruntime, "openvino": _openvino}[runtime](
        path, options, arrays
    )


def _tflite(path: Path, _: Mapping[str, Any], arrays: Arrays) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    inputs = [detail["index"] for detail in interpreter.get_input_details()]
    for index, array in zip(inputs, arrays, strict=True):
        interpreter.resize_tensor_input(index, array.shape)
    interpreter.allocate_tensors()
    outputs = [detail["index"] for detail in interpreter.get_output_details()]

    def run() -> list[NDArray[Any]]:
        for index, array in zip(inputs, arrays, strict=True):
            interpreter.set_tensor(index, array)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in outputs]

    return run


def _onnxruntime(path: Path, options: Mapping[str, Any], arrays: Arrays) -> Run:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    for name, value in {"session.qdq_matmulnbits_accuracy_level": 1, **options}.items():
        settings.add_session_config_entry(name, str(value))
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    feeds = {value.name: array for value, array in zip(session.get_inputs(), arrays, strict=True)}
    return lambda: session.run(None, feeds)


def _openvino(path: Path, options: Mapping[str, Any], arrays: Arrays) -> Run:
    import openvino

    core = openvino.Core()
    properties = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
        **options,
    }
    request = core.compile_model(core.read_model(path), "CPU", properties).create_infer_request()
    feeds = dict(enumerate(arrays))
    return lambda: request.infer(feeds, share_inputs=True)
