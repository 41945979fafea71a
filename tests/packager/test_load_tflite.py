"""`.tflite` files in every form that weights, states and signatures have there."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from hypothesis import given
from hypothesis import strategies as st

from support.tflite_files import (
    block_sparsity,
    csr_level,
    dense_level,
    lstm_file,
    operators,
    pack,
    read,
    sparsity,
    write,
)
from trimtab.errors import ModelError, UnsupportedOperatorError
from trimtab.graph.load import load_model
from trimtab.graph.run import run_graph
from trimtab.graph.tflite_tensors import dense_positions, unpack


def test_sparse_matrix_is_written_out():
    """The example of TFLite's schema: rows dense, columns compressed."""
    dense = np.float32([[0, 5, 0], [0, 0, 0], [7, 0, 8]])
    rows, columns = np.nonzero(dense)
    levels = [dense_level(3), csr_level([0, 1, 1, 3], columns)]
    positions = dense_positions(sparsity([0, 1], levels), [3, 3])
    np.testing.assert_array_equal(positions, rows * 3 + columns)


@given(st.integers(1, 4), st.integers(1, 4), st.sampled_from([0, 1]), st.data())
def test_sparse_blocks_are_written_out(rows, columns, first, data):
    """Blocks of 2 x 1, of which some are stored, rows or columns first."""
    size = rows * columns
    kept = np.asarray(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    kept = kept.reshape(rows, columns)
    positions = dense_positions(block_sparsity(kept, first), [rows * 2, columns])
    found = np.zeros((rows * 2, columns), int)
    np.add.at(found.reshape(-1), positions, 1)
    np.testing.assert_array_equal(found, np.repeat(kept, 2, axis=0))
    order = positions.reshape(-1, 2)
    np.testing.assert_array_equal(order[:, 1] - order[:, 0], columns)


@pytest.mark.parametrize("bits", [2, 4])
def test_packed_integers_come_out_as_they_went_in(bits):
    values = np.random.default_rng(0).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), 24)
    np.testing.assert_array_equal(unpack(pack(values, bits), bits), values)


pytestmark_slow = [
    pytest.mark.slow,
    # TensorFlow says of its own converter and interpreter that they will move.
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning"),
]


def interpreter(content: bytes) -> Interpreter:
    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    made = Interpreter(model_content=content, experimental_op_resolver_type=resolver)
    made.allocate_tensors()
    return made


def run_tflite(content: bytes, *samples: np.ndarray) -> list[np.ndarray]:
    """Runs samples one after the other, states kept, and returns the first output of each."""
    made = interpreter(content)
    results = []
    for sample in samples:
        made.set_tensor(made.get_input_details()[0]["index"], sample)
        made.invoke()
        results.append(made.get_tensor(made.get_output_details()[0]["index"]))
    return results


def half_spec(tf):
    spec = tf.lite.TargetSpec()
    spec.supported_types = [tf.float16]
    return spec


def int8(tf, sample: np.ndarray) -> dict[str, object]:
    spec = tf.lite.TargetSpec(supported_ops=[tf.lite.OpsSet.TFLITE_BUILTINS_INT8])
    return {
        "optimizations": [tf.lite.Optimize.DEFAULT],
        "representative_dataset": lambda: [[sample]],
        "target_spec": spec,
    }


def narrowed(content: bytes) -> tuple[bytes, bytes]:
    """Rounds int8 weights to 4 bits and prunes the matrices in blocks.

    Returns:
        The file with those packed and sparse, and the same in plain int8.
    """
    narrow, wide = read(content), read(content)
    pairs = zip(narrow.subgraphs[0].tensors, wide.subgraphs[0].tensors, strict=True)
    for tensor, plain in pairs:
        data = wide.buffers[plain.buffer].data
        if plain.type != schema.TensorType.INT8 or data is None:
            continue
        values = (np.asarray(data, np.uint8).view(np.int8) // 16).reshape(plain.shape)
        if values.ndim == 2 and len(values) % 2 == 0:
            kept = np.arange(values.size // 2).reshape(-1, values.shape[1]) % 3 == 0
            values = values * np.repeat(kept, 2, axis=0).astype(np.int8)
            tensor.sparsity = block_sparsity(kept, first=1)
            stored = values.reshape(-1)[dense_positions(tensor.sparsity, list(plain.shape))]
            narrow.buffers[tensor.buffer].data = stored.view(np.uint8)
        else:
            tensor.type = schema.TensorType.INT4
            narrow.buffers[tensor.buffer].data = pack(values, 4)
        wide.buffers[plain.buffer].data = values.reshape(-1).view(np.uint8)
    return write(narrow), write(wide)


class TestConverted:
    pytestmark = pytestmark_slow

    @pytest.fixture(scope="class")
    def tf(self):
        from trimtab.tensorflow_setup import import_tensorflow

        return import_tensorflow()

    def load(self, content: bytes, tmp_path):
        (tmp_path / "a.tflite").write_bytes(content)
        return load_model(tmp_path / "a.tflite")

    def dense(self, tf):
        import keras

        keras.utils.set_random_seed(0)
        L = keras.layers
        return keras.Sequential(
            [
                keras.Input((6, 6, 2), name="x"),
                L.Conv2D(8, 3, activation="relu"),
                L.DepthwiseConv2D(3),
                L.Flatten(),
                L.Dense(64, activation=lambda x: keras.activations.gelu(x, approximate=True)),
                L.Dense(3),
            ]
        )

    def convert(self, tf, model, **settings) -> bytes:
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        for name, value in settings.items():
            setattr(converter, name, value)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return converter.convert()

    def sample(self) -> np.ndarray:
        return np.random.default_rng(0).normal(size=(1, 6, 6, 2)).astype(np.float32)

    def test_half_precision_weights_become_float32(self, tf, tmp_path):
        content = self.convert(
            tf,
            self.dense(tf),
            optimizations=[tf.lite.Optimize.DEFAULT],
            target_spec=half_spec(tf),
        )
        graph = self.load(content, tmp_path)
        assert {v.dtype.name for v in graph.graph.initializers.values()} <= {"FLOAT", "INT64"}
        self.assert_equal(graph, content, self.sample())

    def test_integer_weights_alone_leave_activations_float(self, tf, tmp_path):
        model = self.dense(tf)
        content = self.convert(tf, model, optimizations=[tf.lite.Optimize.DEFAULT])
        kinds = [t.type == schema.TensorType.INT8 for t in read(content).subgraphs[0].tensors]
        graph = self.load(content, tmp_path)
        assert any(kinds)
        assert "DynamicQuantizeLinear" not in {node.op_type for node in graph.graph}
        wanted = np.asarray(model(self.sample()))
        found = run_graph(graph, [self.sample()])[0]
        assert np.abs(found - wanted).max() <= 0.05 * np.abs(wanted).max()

    def test_16_bit_activations_become_float(self, tf, tmp_path):
        kinds = tf.lite.OpsSet
        settings = int8(tf, self.sample())
        settings["target_spec"] = tf.lite.TargetSpec(
            supported_ops=[
                kinds.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
                kinds.TFLITE_BUILTINS,
            ]
        )
        content = self.convert(tf, self.dense(tf), **settings)
        assert any(t.type == schema.TensorType.INT16 for t in read(content).subgraphs[0].tensors)
        graph = self.load(content, tmp_path)
        assert "QuantizeLinear" not in {node.op_type for node in graph.graph}
        wanted = run_tflite(content, self.sample())[0]
        found = run_graph(graph, [self.sample()])[0]
        assert np.abs(found - wanted).max() <= 5e-3 * np.abs(wanted).max()

    def test_4_bit_and_sparse_weights_are_written_out(self, tf, tmp_path):
        narrow, wide = narrowed(self.convert(tf, self.dense(tf), **int8(tf, self.sample())))
        tensors = read(narrow).subgraphs[0].tensors
        assert any(tensor.sparsity for tensor in tensors)
        assert any(tensor.type == schema.TensorType.INT4 for tensor in tensors)
        data = [self.sample()]
        wanted = run_graph(self.load(wide, tmp_path), data)[0]
        np.testing.assert_array_equal(run_graph(self.load(narrow, tmp_path), data)[0], wanted)

    def test_state_becomes_an_input_and_an_output(self, tf, tmp_path):
        class Smoother(tf.Module):
            def __init__(self):
                super().__init__()
                self.mean = tf.Variable(tf.zeros((1, 4)), name="mean")
                self.rate = tf.Variable(tf.fill((1, 4), 0.25))

            @tf.function(input_signature=[tf.TensorSpec((1, 4), tf.float32, name="x")])
            def step(self, x):
                self.mean.assign(self.mean + self.rate * (x - self.mean))
                return {"smooth": tf.nn.relu(self.mean.read_value())}

        module = Smoother()
        tf.saved_model.save(module, str(tmp_path / "m"), signatures=module.step)
        converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "m"))
        converter.experimental_enable_resource_variables = True
        content = converter.convert()
        graph = self.load(content, tmp_path)
        assert len(graph.graph.inputs) == len(graph.graph.outputs) == 2
        steps = np.random.default_rng(0).normal(size=(3, 1, 4)).astype(np.float32)
        state = np.zeros((1, 4), np.float32)
        for step, wanted in zip(steps, run_tflite(content, *steps), strict=True):
            found, state = run_graph(graph, [step, state])
            np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)

    def test_lstm_of_one_operator_is_one(self, tf, tmp_path):
        rng = np.random.default_rng(0)
        shapes = [(4, 3)] * 4 + [(4, 4)] * 4 + [(4,)] * 4
        content = lstm_file([rng.normal(size=shape) for shape in shapes], steps=5)
        graph = self.load(content, tmp_path)
        assert "LSTM" in {node.op_type for node in graph.graph}
        self.assert_equal(graph, content, rng.normal(size=(1, 5, 3)).astype(np.float32))

    def test_loop_of_a_recurrent_layer_is_written_out(self, tf, tmp_path):
        import keras

        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((5, 3), batch_size=1), keras.layers.GRU(4)])
        content = self.convert(tf, model)
        assert "WHILE" in operators(content)
        graph = self.load(content, tmp_path)
        assert "Loop" not in {node.op_type for node in graph.graph}
        data = np.random.default_rng(0).normal(size=(1, 5, 3)).astype(np.float32)
        self.assert_equal(graph, content, data)

    def test_signatures_are_chosen_or_listed(self, tf, tmp_path):
        module = tf.Module()
        spec = tf.TensorSpec([1, 4], tf.float32, name="x")
        double = tf.function(lambda x: {"twice": 2 * x}, input_signature=[spec])
        triple = tf.function(lambda x: {"thrice": 3 * x}, input_signature=[spec])

        def content(**signatures):
            tf.saved_model.save(module, str(tmp_path / "m"), signatures=signatures)
            return tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "m")).convert()

        data = np.ones((1, 4), np.float32)
        chosen = self.load(content(other=double, serving_default=triple), tmp_path)
        assert run_graph(chosen, [data])[0][0, 0] == 3
        assert run_graph(self.load(content(other=double), tmp_path), [data])[0][0, 0] == 2
        with pytest.raises(ModelError, match="has the signatures a, b and none called serving_def"):
            self.load(content(a=double, b=triple), tmp_path)

    def test_operator_of_somebody_is_named(self, tf, tmp_path):
        model = read(self.convert(tf, self.dense(tf)))
        for code in model.operatorCodes:
            if code.builtinCode == schema.BuiltinOperator.DEPTHWISE_CONV_2D:
                code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
                code.customCode = "TheirOwnConvolution"
        with pytest.raises(UnsupportedOperatorError, match=r"ONNX lacks: TheirOwnConvolution; "):
            self.load(write(model), tmp_path)

    def assert_equal(self, graph, content: bytes, data: np.ndarray) -> None:
        wanted = run_tflite(content, data)[0]
        found = run_graph(graph, [data])[0]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
