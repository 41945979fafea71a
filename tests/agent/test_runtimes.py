"""One contract suite over every runtime, with real runtimes and real model files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from support.models import WIDTH, write_model, write_onnx, write_tflite
from trimtab_agent import runtimes
from trimtab_agent.contract.manifest import TensorSpec
from trimtab_agent.errors import CallerError, FormatError, RuntimeUnavailableError

RUNTIMES = ("tflite", "onnxruntime", "openvino")
PROVIDERS = {"tflite": "XNNPACK", "onnxruntime": "CPUExecutionProvider", "openvino": "CPU"}


@pytest.fixture(params=RUNTIMES)
def runtime(request) -> str:
    return request.param


@pytest.fixture
def session(runtime, tmp_path):
    return runtimes.load(runtime, write_model(runtime, tmp_path))


def ones(*shape: int, dtype=np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


def test_specs_are_in_the_files_order(session):
    free = (None, WIDTH)
    assert session.inputs == (
        TensorSpec(name="zeta", shape=free, dtype="float32"),
        TensorSpec(name="alpha", shape=free, dtype="float32"),
    )
    assert [spec.name for spec in session.outputs] == ["sum", "difference"]


def test_arrays_and_results_are_by_position(session):
    total, difference = session.run([3 * ones(1, WIDTH), ones(1, WIDTH)])
    np.testing.assert_array_equal(total, 4 * ones(1, WIDTH))
    np.testing.assert_array_equal(difference, 2 * ones(1, WIDTH))


def test_says_what_executes_it(session, runtime):
    assert session.provider == PROVIDERS[runtime]
    assert session.version == runtimes.available()[runtime].version


def test_results_outlive_the_next_run(session):
    first = session.run([ones(1, WIDTH), ones(1, WIDTH)])
    session.run([5 * ones(1, WIDTH), ones(1, WIDTH)])
    np.testing.assert_array_equal(first[0], 2 * ones(1, WIDTH))


def test_a_free_batch_may_change_from_run_to_run(session):
    for batch in (1, 4, 2):
        total, _ = session.run([ones(batch, WIDTH), ones(batch, WIDTH)])
        np.testing.assert_array_equal(total, 2 * ones(batch, WIDTH))


def test_run_samples_stacks_in_order_on_a_fixed_batch(runtime, tmp_path):
    session = runtimes.load(runtime, write_model(runtime, tmp_path, batch=1), threads=2)
    samples = np.arange(5 * WIDTH, dtype=np.float32).reshape(5, WIDTH)
    total, difference = runtimes.run_samples(session, [samples, ones(5, WIDTH)])
    np.testing.assert_array_equal(total, samples + 1)
    np.testing.assert_array_equal(difference, samples - 1)
    with pytest.raises(
        CallerError, match=r"input 0 \(zeta\) takes the shape \[1, 3\], got \[5, 3\]"
    ):
        session.run([samples, ones(5, WIDTH)])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ([ones(1, 3)], "the model takes 2 inputs (zeta, alpha), got 1"),
        ([ones(1, 3), ones(1, 4)], "input 1 (alpha) takes the shape [?, 3], got [1, 4]"),
        ([ones(3), ones(1, 3)], "input 0 (zeta) takes the shape [?, 3], got [3]"),
        (
            [ones(1, 3), ones(1, 3, dtype=np.float64)],
            "input 1 (alpha) takes float32, got float64",
        ),
    ],
    ids=["count", "width", "rank", "dtype"],
)
def test_arrays_that_do_not_fit(session, arrays, message):
    with pytest.raises(CallerError) as caught:
        session.run(arrays)
    assert str(caught.value) == message


def test_run_samples_wants_as_many_samples_of_each_input(session):
    with pytest.raises(CallerError, match="same number of samples"):
        runtimes.run_samples(session, [ones(2, WIDTH), ones(3, WIDTH)])
    with pytest.raises(CallerError, match="at least 1"):
        runtimes.run_samples(session, [ones(0, WIDTH), ones(0, WIDTH)])


class Recurrent:
    """A session with a state of two layers, which has no batch, and a counter without axes."""

    inputs = (
        TensorSpec(name="x", shape=(None, WIDTH), dtype="float32"),
        TensorSpec(name="state", shape=(2, 1, WIDTH), dtype="float32"),
    )
    outputs = (
        TensorSpec(name="y", shape=(None, WIDTH), dtype="float32"),
        TensorSpec(name="next", shape=(2, 1, WIDTH), dtype="float32"),
        TensorSpec(name="count", shape=(), dtype="float32"),
    )
    provider, version = None, "1"

    def run(self, arrays):
        x, state = arrays
        assert state.shape == (2, 1, WIDTH)
        return [x + state.sum(axis=0), state + 1, np.float32(x.sum())]


def test_run_samples_gives_each_sample_its_own_state():
    states = np.arange(3, dtype=np.float32)[:, None, None, None] * ones(3, 2, 1, WIDTH)
    y, after, count = runtimes.run_samples(Recurrent(), [ones(3, WIDTH), states])
    assert (y.shape, after.shape, count.shape) == ((3, WIDTH), (3, 2, 1, WIDTH), (3,))
    np.testing.assert_array_equal(y[:, 0], [1, 3, 5])
    np.testing.assert_array_equal(after[:, 1, 0, 0], [1, 2, 3])


@pytest.mark.parametrize("content", [b"", b"this is no model\n" * 50], ids=["empty", "text"])
def test_a_file_that_is_no_model(runtime, tmp_path, content):
    path = tmp_path / "broken.model"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=f"broken.model is no model that {runtime}"):
        runtimes.load(runtime, path)


def test_a_truncated_model(runtime, tmp_path):
    path = write_model(runtime, tmp_path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(FormatError, match=path.name):
        runtimes.load(runtime, path)


def test_a_file_that_is_not_there(runtime, tmp_path):
    with pytest.raises(FormatError, match=r"absent\.bin is not a file"):
        runtimes.load(runtime, tmp_path / "absent.bin")


def test_an_option_that_is_unknown(runtime, tmp_path):
    with pytest.raises(CallerError, match=rf"{runtime}.*warp_speed"):
        runtimes.load(runtime, write_model(runtime, tmp_path), options={"warp_speed": 9})


def test_threads_below_one(runtime, tmp_path):
    with pytest.raises(CallerError, match="threads must be at least 1, got 0"):
        runtimes.load(runtime, write_model(runtime, tmp_path), threads=0)


def test_a_runtime_that_is_unknown(tmp_path):
    with pytest.raises(CallerError, match="'torch' is unknown: take one of tflite, onnxruntime"):
        runtimes.load("torch", tmp_path / "model")


def test_a_runtime_that_is_not_installed(tmp_path, monkeypatch):
    def absent(distribution):
        raise runtimes.importlib.metadata.PackageNotFoundError(distribution)

    monkeypatch.setattr(runtimes.importlib.metadata, "version", absent)
    with pytest.raises(RuntimeUnavailableError) as caught:
        runtimes.load("tflite", tmp_path / "model")
    assert "pip install 'trimtab-agent[tflite]'" in str(caught.value)
    assert runtimes.available() == {}


def test_a_provider_that_is_not_there(tmp_path):
    options = {"provider": "CUDAExecutionProvider"}
    with pytest.raises(RuntimeUnavailableError, match="no provider 'CUDAExecutionProvider'"):
        runtimes.load("onnxruntime", write_onnx(tmp_path, None), options=options)


def test_options_that_are_passed_on(tmp_path):
    onnx = write_onnx(tmp_path, None)
    options = {"session.intra_op.allow_spinning": False, "provider": "CPUExecutionProvider"}
    assert runtimes.load("onnxruntime", onnx, options=options).provider == "CPUExecutionProvider"
    path = write_model("openvino", tmp_path)
    with pytest.raises(CallerError, match="INFERENCE_PRECISION_HINT"):
        runtimes.load("openvino", path, options={"INFERENCE_PRECISION_HINT": "f99"})


def test_an_operator_that_the_build_lacks(tmp_path):
    path = write_tflite(tmp_path, None)
    model = schema.ModelT.InitFromPackedBuf(bytearray(path.read_bytes()))
    model.operatorCodes[0].builtinCode = schema.BuiltinOperator.CUSTOM
    model.operatorCodes[0].deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    model.operatorCodes[0].customCode = b"Levitate"
    model.subgraphs[0].operators[0].builtinOptionsType = 0
    model.subgraphs[0].operators[0].builtinOptions = None
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    with pytest.raises(FormatError, match="Levitate"):
        runtimes.load("tflite", path)


def test_importing_the_package_costs_no_runtime_and_no_numpy():
    script = (
        "import sys, trimtab_agent.runtimes, trimtab_agent.bench\n"
        "heavy = {'numpy', 'ai_edge_litert', 'tflite_runtime', 'onnxruntime', 'openvino'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_a_file_from_the_tflite_converter(tmp_path: Path):
    import tensorflow as tf

    model = tf.keras.Sequential(
        [tf.keras.Input((16, 2), name="signal"), tf.keras.layers.Conv1D(4, 3, name="score")]
    )
    path = tmp_path / "keras.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    session = runtimes.load("tflite", path)
    (spec,) = session.inputs
    assert (spec.shape, spec.dtype) == ((None, 16, 2), "float32")
    sample = np.random.default_rng(0).normal(size=(3, 16, 2)).astype(np.float32)
    (actual,) = runtimes.run_samples(session, [sample])
    np.testing.assert_allclose(actual, model(sample).numpy(), atol=1e-5)
