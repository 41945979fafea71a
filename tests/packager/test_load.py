"""Loading: files that are no models, and Keras models that come out as Keras runs them."""

from __future__ import annotations

import zipfile

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from support.graphs import GRAPHS, residual
from trimtab.errors import ModelError
from trimtab.graph.load import load_model
from trimtab.graph.run import run_graph


def onnx_bytes(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString()


def empty_graph() -> bytes:
    graph = helper.make_graph([], "empty", [], [])
    return helper.make_model(graph).SerializeToString()


def fixed_batch() -> bytes:
    model = residual()
    model.graph.inputs[0].shape = ir.Shape([8, 3, 8, 8])
    return onnx_bytes(model)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


def unknown_operators() -> bytes:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3]) for n in "xy")
    nodes = [
        helper.make_node("Theirs", ["x"], ["a"], domain="com.somebody"),
        helper.make_node("NoSuch", ["a"], ["b"]),
        helper.make_node("FusedMatMul", ["b", "b"], ["y"], domain="com.microsoft"),
    ]
    opsets = [helper.make_opsetid(d, v) for d, v in (("", 17), ("com.somebody", 1))]
    opsets.append(helper.make_opsetid("com.microsoft", 1))
    graph = helper.make_graph(nodes, "g", [x], [y])
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def broken_weight(value: float) -> bytes:
    model = residual()
    weight = next(v for v in model.graph.initializers.values() if len(v.shape) == 4)
    array = weight.const_value.numpy().copy()
    array[1, 0, 0, 1] = value
    weight.const_value = ir.tensor(array, name=weight.name)
    return onnx_bytes(model)


BAD_FILES = {
    "cut off": ("a.onnx", onnx_bytes(residual())[:500], "is not a valid ONNX model: "),
    "random bytes": ("a.onnx", np.random.default_rng(0).bytes(400), "is not a valid ONNX model: "),
    "nothing in it": ("a.onnx", b"", "is not a valid ONNX model|is an empty ONNX model"),
    "no inputs": ("a.onnx", empty_graph(), "has no inputs or no outputs|is not a valid ONNX model"),
    "fixed batch": ("a.onnx", fixed_batch(), "input 'x' has a fixed batch of 8; export"),
    "wrong ending": ("a.pb", b"PK", "ends in '.pb'; models end in .onnx, .keras"),
    "pickle of torch": ("a.pt", b"PK", r"is a TorchScript file, a pickle .*torch\.export\.save"),
    "no flatbuffer": ("a.tflite", b"nothing at all", "is no TFLite model: the identifier TFL3"),
    "pointer of Git LFS": ("a.tflite", POINTER, "is a pointer of Git LFS, .* with git lfs pull"),
    "unknown operators": (
        "a.onnx",
        unknown_operators(),
        r"neither ONNX nor ONNX Runtime has: NoSuch, com\.somebody\.Theirs; export",
    ),
    "NaN": ("a.onnx", broken_weight(np.nan), r"has 1 of \d+ values .* first nan at \[1, 0, 0, 1\]"),
    "infinity": ("a.onnx", broken_weight(np.inf), r"weight '\w+' has 1 of .* the first inf at"),
    "weights of torch": ("a.safetensors", b"", r"weights alone, none of which can be exported"),
    "no ending": ("model", b"", "ends in 'nothing'; models end in"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file_is_named_with_its_fault(name, tmp_path):
    file, content, message = BAD_FILES[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(tmp_path / file)
    assert str(tmp_path / file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_infinity_that_is_meant_is_kept(tmp_path):
    """A mask of attention hides steps with it."""
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 3]) for n in "xy")
    mask = onnx.numpy_helper.from_array(np.float32([0, -np.inf, 0]), "mask")
    nodes = [
        helper.make_node("Add", ["x", "mask"], ["h"]),
        helper.make_node("Softmax", ["h"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y], [mask])
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), tmp_path / "a.onnx")
    found = run_graph(load_model(tmp_path / "a.onnx"), [np.zeros((2, 3), np.float32)])[0]
    np.testing.assert_array_equal(found, [[0.5, 0, 0.5]] * 2)


def test_missing_file_and_folder_of_something_else_are_named(tmp_path):
    with pytest.raises(ModelError, match=r"gone.onnx is no file; models end in .onnx, "):
        load_model(tmp_path / "gone.onnx")
    with pytest.raises(ModelError, match=r"is a folder without a saved_model\.pb; models end in"):
        load_model(tmp_path)


@pytest.mark.parametrize("name", ["residual", "time_series_wrapped"])
def test_onnx_file_computes_what_it_did(name, tmp_path):
    model = GRAPHS[name]()
    ir.save(model, tmp_path / "a.onnx")
    shape = [dim for dim in model.graph.inputs[0].shape if isinstance(dim, int)]
    data = [np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)]
    np.testing.assert_allclose(
        run_graph(load_model(tmp_path / "a.onnx"), data)[0], run_graph(model, data)[0], rtol=1e-4
    )


def test_old_opset_is_brought_up(tmp_path):
    """Before opset 13, Softmax flattened what it was given."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2, 3])
    graph = helper.make_graph([helper.make_node("Softmax", ["x"], ["y"])], "g", [x], [y])
    opset = helper.make_opsetid("", 11)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=6), tmp_path / "a.onnx")
    model = load_model(tmp_path / "a.onnx")
    assert model.opset_imports[""] >= 13
    data = np.random.default_rng(0).normal(size=(4, 2, 3)).astype(np.float32)
    np.testing.assert_allclose(run_graph(model, [data])[0].sum(axis=(1, 2)), 1, rtol=1e-5)


def zip_with_bad_config(path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", '{"class_name": "Nothing"}')


@pytest.mark.slow
def test_keras_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "text.keras").write_bytes(b"not a zip at all")
    zip_with_bad_config(tmp_path / "config.keras")
    for name in ("text.keras", "config.keras"):
        with pytest.raises(ModelError, match=f"{name} cannot be read as a Keras model: ") as caught:
            load_model(tmp_path / name)
        assert "\n" not in str(caught.value)


def one_dimensional(layers):
    return [
        layers.Input((32, 4), name="motion"),
        layers.Conv1D(8, 5, padding="same"),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.MaxPooling1D(2),
        layers.SeparableConv1D(12, 3, padding="same"),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Flatten(),
        layers.Dense(16, activation="relu"),
        layers.Dense(3, activation="softmax", name="answer"),
    ]


def two_dimensional(layers):
    return [
        layers.Input((16, 16, 3), name="picture"),
        layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(6.0),
        layers.DepthwiseConv2D(3, padding="same"),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.AveragePooling2D(2),
        layers.Conv2D(8, 1),
        layers.Flatten(),
        layers.Dense(5, name="answer"),
    ]


def sequential(stack):
    import keras

    return keras.Sequential(stack(keras.layers))


def functional(stack):
    import keras

    first, *rest = stack(keras.layers)
    tensor = first
    for layer in rest:
        tensor = layer(tensor)
    return keras.Model(first, tensor)


def save_with_lively_weights(model, path) -> None:
    """Fresh batch norms do nothing; these do."""
    generator = np.random.default_rng(0)
    model.set_weights([generator.uniform(0.05, 0.5, array.shape) for array in model.get_weights()])
    model.save(path)


@pytest.mark.slow
@pytest.mark.parametrize("stack", [one_dimensional, two_dimensional])
@pytest.mark.parametrize("kind", [sequential, functional])
def test_keras_model_computes_what_keras_does(kind, stack, tmp_path):
    from trimtab.tensorflow_setup import import_tensorflow

    import_tensorflow()
    model = kind(stack)
    save_with_lively_weights(model, tmp_path / "a.keras")
    graph = load_model(tmp_path / "a.keras")
    shape = model.input_shape[1:]
    data = np.random.default_rng(1).normal(size=(5, *shape)).astype(np.float32)
    expected = np.asarray(model(data, training=False))
    actual = run_graph(graph, [data])[0]
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    left = {node.op_type for node in graph.graph}
    assert not left & {"BatchNormalization", "Mul", "Add", "Unsqueeze", "Shape", "Gather"}
    assert [value.name for value in graph.graph.outputs] == ["answer"]
    weights = [node.name for node in graph.graph if node.op_type in ("Conv", "Gemm", "MatMul")]
    assert len(weights) == sum(len(layer.weights) in (1, 2, 3) for layer in model.layers) + (
        stack is one_dimensional  # a separable convolution is two
    )
    for name in graph.graph.initializers:
        assert not any(word in name for word in (":0", "ReadVariableOp", "const_fold", "_1d"))


@pytest.mark.slow
def test_biases_that_are_all_zero_are_not_tied(tmp_path):
    """The converter stores equal constants once; trained weights must be every layer's own."""
    from trimtab.tensorflow_setup import import_tensorflow

    import_tensorflow()
    import keras

    layers = [keras.layers.Conv2D(4, 3, padding="same", activation="relu") for _ in range(3)]
    model = keras.Sequential([keras.layers.Input((8, 8, 4)), *layers])
    model.save(tmp_path / "a.keras")
    biases = [
        node.inputs[2].name
        for node in load_model(tmp_path / "a.keras").graph
        if node.op_type == "Conv" and len(node.inputs) > 2
    ]
    assert len(set(biases)) == len(biases)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:You are saving a model that has not yet been built")
def test_keras_model_that_was_never_called_is_refused(tmp_path):
    from trimtab.tensorflow_setup import import_tensorflow

    import_tensorflow()
    import keras

    keras.Sequential([keras.layers.Dense(3)]).save(tmp_path / "a.keras")
    with pytest.raises(ModelError, match="the model was never called, so that the shape of its"):
        load_model(tmp_path / "a.keras")


@pytest.mark.slow
def test_keras_model_that_is_a_class_of_its_own(tmp_path):
    from trimtab.tensorflow_setup import import_tensorflow

    import_tensorflow()
    import keras

    @keras.saving.register_keras_serializable()
    class Own(keras.Model):
        def __init__(self, **options):
            super().__init__(**options)
            self.dense = keras.layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    model, data = Own(), np.ones((3, 4), np.float32)
    expected = np.asarray(model(data))
    model.save(tmp_path / "a.keras")
    np.testing.assert_allclose(run_graph(load_model(tmp_path / "a.keras"), [data])[0], expected)


@pytest.mark.slow
def test_keras_inputs_by_name_keep_their_places(tmp_path):
    from trimtab.tensorflow_setup import import_tensorflow

    import_tensorflow()
    import keras

    left, right = keras.Input((4,), name="left"), keras.Input((3,), name="right")
    joined = keras.layers.Concatenate(name="joined")([right, left])
    model = keras.Model({"left": left, "right": right}, {"joined": joined, "left": left})
    model.save(tmp_path / "a.keras")
    graph = load_model(tmp_path / "a.keras")
    data = {"left": np.ones((2, 4), np.float32), "right": np.zeros((2, 3), np.float32)}
    outputs = run_graph(graph, [data[value.name] for value in graph.graph.inputs])
    assert [array.shape for array in outputs] == [(2, 7), (2, 4)]
    np.testing.assert_array_equal(outputs[0], np.asarray(model(data)["joined"]))
