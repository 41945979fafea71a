"""One contract suite over every runtime, with real runtimes and real model files.

scripts/test-tflite-runtime runs the part about TFLite (`-k tflite`) with tflite-runtime 2.14.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.models import DATA, WIDTH, write_model, write_onnx, write_ort, write_square
from trimtab_agent import runtimes
from trimtab_agent.contract.manifest import Quantization, TensorSpec
from trimtab_agent.errors import CallerError, FormatError, RuntimeUnavailableError
from trimtab_agent.runtimes.onnxruntime_values import from_bfloat16, to_bfloat16

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


def test_times_of_operators(session, runtime):
    found = session.profile([ones(1, WIDTH), ones(1, WIDTH)], 3)
    if runtime == "tflite":  # its Python interpreters have no profiler
        assert found is None
        return
    assert [each.calls for each in found] == [3] * len(found)
    assert "Add" in {each.operator for each in found}
    times = [each.time_us for each in found]
    assert times == sorted(times, reverse=True)
    assert all(time >= 0 for time in times)
    assert all(each.name and each.kernel for each in found)
    with pytest.raises(CallerError, match="the model takes 2 inputs"):
        session.profile([ones(1, WIDTH)], 3)


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


def test_integers_at_the_edge_of_a_tflite_file_say_what_they_stand_for():
    session = runtimes.load("tflite", DATA / "dequantize-int8.tflite")
    (spec,) = session.inputs
    assert spec == TensorSpec(
        name="codes",
        shape=(1, WIDTH),
        dtype="int8",
        quantization=Quantization(scales=(0.5,), zero_points=(3,)),
    )
    assert session.outputs[0].quantization is None
    (values,) = session.run([np.array([[3, 5, 1]], np.int8)])
    np.testing.assert_array_equal(values, [[0, 1, -1]])


@pytest.mark.parametrize(
    ("options", "provider"),
    [
        ({}, "XNNPACK,builtin"),
        ({"delegate": "XNNPACK,builtin"}, "XNNPACK,builtin"),
        ({"delegate": "builtin"}, "builtin"),
    ],
)
def test_who_runs_the_nodes_of_a_tflite_file(options, provider):
    session = runtimes.load("tflite", DATA / "remainder.tflite", options=options)
    assert session.provider == provider
    (rest,) = session.run([np.array([[4, 5, 6]], np.float32), np.array([[3, 3, 4]], np.float32)])
    np.testing.assert_array_equal(rest, [[1, 2, 2]])


def test_a_tflite_delegate_that_leaves_nodes_to_the_cpu():
    with pytest.raises(RuntimeUnavailableError) as caught:
        runtimes.load("tflite", DATA / "remainder.tflite", options={"delegate": "XNNPACK"})
    assert "XNNPACK left FLOOR_MOD to the CPU" in str(caught.value)
    assert "delegate: XNNPACK,builtin" in str(caught.value)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Delegate.__del__
def test_a_tflite_delegate_that_is_not_there():
    options = {"delegate": "libnone.so", "delegate.cores": "1"}
    with pytest.raises(RuntimeUnavailableError, match=r"libnone\.so does not load here"):
        runtimes.load("tflite", DATA / "remainder.tflite", options=options)


def test_two_tflite_delegates_at_once():
    options = {"delegate": "libnone.so,XNNPACK"}
    with pytest.raises(CallerError, match="takes one delegate and 'builtin'"):
        runtimes.load("tflite", DATA / "remainder.tflite", options=options)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(("edge", "dtype"), [("float16", "float16"), ("bfloat16", "float32")])
def test_half_precision_at_the_edge(tmp_path, runtime, edge, dtype):
    session = runtimes.load(runtime, write_square(tmp_path, edge))
    assert [spec.dtype for spec in (*session.inputs, *session.outputs)] == [dtype, dtype]
    (squares,) = session.run([np.array([[1.5, -2, 0]], dtype)])
    assert squares.dtype == dtype
    np.testing.assert_array_equal(squares, [[2.25, 4, 0]])
    assert session.profile([np.ones((1, WIDTH), dtype)], 1)


def test_bfloat16_is_rounded_to_the_nearest(tmp_path):
    session = runtimes.load("onnxruntime", write_square(tmp_path, "bfloat16"))
    # 1 + 1/256 lies between two numbers of 8 bits, and goes to the even one.
    (squares,) = session.run([np.array([[1 + 1 / 256, np.inf, np.nan]], np.float32)])
    np.testing.assert_array_equal(squares, [[1, np.inf, np.nan]])
    (nothing,) = session.run([np.ones((0, WIDTH), np.float32)])
    assert nothing.shape == (0, WIDTH)


@given(st.lists(st.floats(width=32), min_size=1))
def test_bfloat16_bits_are_those_of_ml_dtypes(numbers):
    import ml_dtypes

    values = np.array(numbers, np.float32)
    with np.errstate(over="ignore"):
        expected = values.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(from_bfloat16(to_bfloat16(values)), expected)


def test_bfloat16_with_an_onnxruntime_that_is_too_old(tmp_path, monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "OrtValue", object)
    with pytest.raises(FormatError, match=r"bfloat16\.onnx has bfloat16 inputs or outputs, which"):
        runtimes.load("onnxruntime", write_square(tmp_path, "bfloat16"))


def test_the_form_of_onnxruntime_for_minimal_builds(tmp_path):
    session = runtimes.load("onnxruntime", write_ort(tmp_path))
    assert [spec.name for spec in session.inputs] == ["zeta", "alpha"]
    total, _ = session.run([ones(2, WIDTH), ones(2, WIDTH)])
    np.testing.assert_array_equal(total, 2 * ones(2, WIDTH))


def test_the_small_files_are_what_makes_them():
    from support.tflite_runtime_files import FILES

    assert {name: (DATA / name).read_bytes() for name in FILES} == {
        name: make() for name, make in FILES.items()
    }


def test_an_operator_that_the_build_lacks(tmp_path):
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    path = write_model("tflite", tmp_path)
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
def test_tensorflow_is_the_last_resort(tmp_path, monkeypatch):
    version = runtimes.importlib.metadata.version

    def without_the_small_ones(distribution):
        if distribution in ("ai-edge-litert", "tflite-runtime"):
            raise runtimes.importlib.metadata.PackageNotFoundError(distribution)
        return version(distribution)

    monkeypatch.setattr(runtimes.importlib.metadata, "version", without_the_small_ones)
    assert runtimes.available()["tflite"].distribution.startswith("tensorflow")
    session = runtimes.load("tflite", write_model("tflite", tmp_path))
    test_arrays_and_results_are_by_position(session)
    test_results_outlive_the_next_run(session)
    test_a_free_batch_may_change_from_run_to_run(session)
    test_times_of_operators(session, "tflite")
    assert session.provider == "XNNPACK"
    test_a_tflite_delegate_that_leaves_nodes_to_the_cpu()


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
