"""Files of TensorFlow: SavedModel folders, TFLite, and whole models that Keras 2 wrote."""

from __future__ import annotations

import json
import warnings

import h5py
import numpy as np
import pytest

from trimtab.errors import ModelError
from trimtab.graph.load import load_model
from trimtab.graph.run import run_graph

pytestmark = [
    pytest.mark.slow,
    # TensorFlow says of its own converter and interpreter that they will move.
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def tf():
    from trimtab.tensorflow_setup import import_tensorflow

    return import_tensorflow()


def picture_model():
    import keras

    L = keras.layers
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3), name="picture"),
            L.Conv2D(8, 3, padding="same", activation="relu"),
            L.BatchNormalization(),
            L.DepthwiseConv2D(3, strides=2),
            L.ReLU(6.0),
            L.MaxPooling2D(),
            L.Conv2D(4, 3, padding="same"),
            L.Flatten(),
            L.Dense(5, activation="softmax", name="answer"),
        ]
    )
    rng = np.random.default_rng(0)
    model.set_weights(
        [rng.uniform(-0.3, 0.5, w.shape).astype("f") ** 2 for w in model.get_weights()]
    )
    return model


def pictures(count: int = 4) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 16, 16, 3)).astype(np.float32)


def assert_equal(actual: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(actual, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_saved_model_computes_what_it_did(tf, tmp_path):
    model = picture_model()
    model.export(tmp_path / "saved", verbose=False)
    graph = load_model(tmp_path / "saved")
    assert_equal(run_graph(graph, [pictures()])[0], np.asarray(model(pictures())))


def test_signatures_are_chosen_or_listed(tf, tmp_path):
    module = tf.Module()
    spec = tf.TensorSpec([None, 4], tf.float32, name="x")
    double = tf.function(lambda x: {"twice": 2 * x}, input_signature=[spec])
    triple = tf.function(lambda x: {"thrice": 3 * x}, input_signature=[spec])
    data = np.ones((2, 4), np.float32)

    def save(name, **signatures):
        tf.saved_model.save(module, str(tmp_path / name), signatures=signatures)
        return tmp_path / name

    assert run_graph(load_model(save("one", other=double)), [data])[0][0, 0] == 2
    both = save("both", serving_default=triple, other=double)
    assert [v.name for v in load_model(both).graph.outputs] == ["thrice"]
    with pytest.raises(ModelError, match="has the signatures a, b and none called serving_default"):
        load_model(save("several", a=double, b=triple))
    with pytest.raises(ModelError, match="has no signature"):
        load_model(save("none"))


def tflite_bytes(tf, model, *, quantize: bool, integer_ports: bool = False) -> bytes:
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if quantize:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([p[None]] for p in pictures(8))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    if integer_ports:
        converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def run_tflite(tf, content: bytes, data: np.ndarray) -> np.ndarray:
    interpreter = tf.lite.Interpreter(model_content=content)
    interpreter.allocate_tensors()
    results = []
    for sample in data:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], sample[None])
        interpreter.invoke()
        results.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0])
    return np.stack(results)


def test_float_tflite_computes_what_it_did(tf, tmp_path):
    content = tflite_bytes(tf, picture_model(), quantize=False)
    (tmp_path / "a.tflite").write_bytes(content)
    graph = load_model(tmp_path / "a.tflite")
    assert_equal(run_graph(graph, [pictures()])[0], run_tflite(tf, content, pictures()))
    assert graph.graph.inputs[0].name == "picture"


@pytest.mark.parametrize("integer_ports", [False, True])
def test_int8_tflite_stays_quantized(tf, integer_ports, tmp_path):
    content = tflite_bytes(tf, picture_model(), quantize=True, integer_ports=integer_ports)
    (tmp_path / "a.tflite").write_bytes(content)
    graph = load_model(tmp_path / "a.tflite")
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in graph.graph}
    data = pictures()
    if integer_ports:
        data = np.random.default_rng(0).integers(-128, 128, data.shape).astype(np.int8)
    actual, wanted = run_graph(graph, [data])[0], run_tflite(tf, content, data)
    # One step of the output's scale: kernels round each sum their own way.
    step = 1 if integer_ports else 1 / 256
    assert np.abs(actual.astype(float) - wanted.astype(float)).max() <= step


def test_cut_off_tflite_is_refused(tf, tmp_path):
    content = tflite_bytes(tf, picture_model(), quantize=False)
    (tmp_path / "a.tflite").write_bytes(content[:200])
    with pytest.raises(ModelError, match=r"a\.tflite is cut off or damaged: its flatbuffer"):
        load_model(tmp_path / "a.tflite")


def keras_2_file(path, change) -> None:
    """Rewrites a .h5 file's configuration into what Keras 2 stored there."""
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        change(config)
        file.attrs["model_config"] = json.dumps(config)


def layers_of(config):
    return config["config"]["layers"]


def add_groups(config):
    for layer in layers_of(config):
        if layer["class_name"] == "DepthwiseConv2D":
            layer["config"] |= {"groups": 1, "kernel_initializer": None}


def old_input(config):
    first = layers_of(config)[0]["config"]
    first["batch_input_shape"] = first.pop("batch_shape")


def time_major(config):
    for layer in layers_of(config):
        if layer["class_name"] in ("LSTM", "GRU"):
            layer["config"] |= {"time_major": False, "implementation": 2}


def old_dtype(config):
    """Keras 2 wrote a data type as its name, and a policy without a module."""
    for layer in layers_of(config):
        layer["config"]["dtype"] = "float32"
        layer.pop("module", None)
        layer.pop("registered_name", None)
        layer.pop("build_config", None)


def recurrent_model():
    import keras

    L = keras.layers
    return keras.Sequential([keras.Input((7, 4)), L.LSTM(5, return_sequences=True), L.GRU(3)])


@pytest.mark.parametrize(
    ("make", "changes"),
    [
        (picture_model, []),
        (picture_model, [add_groups]),
        (picture_model, [add_groups, old_input, old_dtype]),
        (recurrent_model, [time_major, old_dtype]),
    ],
)
def test_keras_2_file_computes_what_it_did(tf, make, changes, tmp_path):
    model = make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(tmp_path / "a.h5")
    for change in changes:
        keras_2_file(tmp_path / "a.h5", change)
    data = np.random.default_rng(0).normal(size=(3, *model.input_shape[1:])).astype(np.float32)
    graph = load_model(tmp_path / "a.h5")
    assert_equal(run_graph(graph, [data])[0], np.asarray(model(data, training=False)))


def test_weights_alone_and_no_hdf5_are_refused(tf, tmp_path):
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file["w"] = np.zeros(3)
    (tmp_path / "text.h5").write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"weights\.h5 holds weights without a model; save the"):
        load_model(tmp_path / "weights.h5")
    with pytest.raises(ModelError, match=r"text\.h5 is no HDF5 file: "):
        load_model(tmp_path / "text.h5")


def test_layer_of_somebodys_own_is_named(tf, tmp_path):
    import keras

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(tmp_path / "a.h5")

    def rename(config):
        layers_of(config)[-1]["class_name"] = "TheirOwn"

    keras_2_file(tmp_path / "a.h5", rename)
    with pytest.raises(ModelError, match=r"classes that are not Keras' \(TheirOwn\): Python code"):
        load_model(tmp_path / "a.h5")


def test_lambda_in_a_keras_file_is_never_run(tf, tmp_path):
    import keras

    layer = keras.layers.Lambda(lambda x: x * 2, name="twice")
    keras.Sequential([keras.Input((4,)), layer]).save(tmp_path / "a.keras")
    with pytest.raises(ModelError, match=r"has Lambda layers \(twice\): Python code"):
        load_model(tmp_path / "a.keras")


def test_saved_model_of_tensorflow_1(tf, tmp_path):
    """Variables, two inputs, a signature of its own name beside one for serialized examples."""
    v1 = tf.compat.v1
    rng = np.random.default_rng(0)
    weight, data = rng.normal(size=(4, 3)).astype("f"), rng.normal(size=(2, 4)).astype("f")
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 4], "x")
        scale = v1.placeholder(tf.float32, [None, 1], "scale")
        text = v1.placeholder(tf.string, [None], "text")
        y = tf.nn.relu(x @ v1.get_variable("w", initializer=weight)) * scale
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(tmp_path / "one"))
        define = v1.saved_model.predict_signature_def
        signatures = {
            "predict": define({"x": x, "scale": scale}, {"scores": y}),
            "serving_default": define({"examples": text}, {"length": tf.strings.length(text)}),
        }
        builder.add_meta_graph_and_variables(session, ["serve"], signatures)
        builder.save()
    graph = load_model(tmp_path / "one")
    feeds = {"x": data, "scale": np.full((2, 1), 2, np.float32)}
    found = run_graph(graph, [feeds[value.name] for value in graph.graph.inputs])
    assert_equal(found[0], np.maximum(data @ weight, 0) * 2)
    assert [value.name for value in graph.graph.outputs] == ["scores"]


def test_saved_model_that_tensorflow_2_cannot_load_is_frozen(tf, tmp_path, monkeypatch):
    """As one of an older Keras, whose objects the loader of TensorFlow 2 stumbles over."""
    model = picture_model()
    model.export(tmp_path / "saved", verbose=False)

    def stumble(_path):
        raise AttributeError("'_UserObject' object has no attribute 'add_slot'")

    monkeypatch.setattr(tf.saved_model, "load", stumble)
    graph = load_model(tmp_path / "saved")
    assert_equal(run_graph(graph, [pictures()])[0], np.asarray(model(pictures())))
    assert [value.name for value in graph.graph.inputs] == ["picture"]


def test_saved_model_of_strings_alone_is_refused(tf, tmp_path):
    module = tf.Module()
    spec = tf.TensorSpec([None], tf.string, name="examples")
    length = tf.function(lambda examples: {"count": tf.size(examples)}, input_signature=[spec])
    tf.saved_model.save(module, str(tmp_path / "text"), signatures=length)
    with pytest.raises(ModelError, match=r"text takes strings, such as serialized tf\.train"):
        load_model(tmp_path / "text")


def test_saved_model_without_its_variables_is_refused(tf, tmp_path):
    picture_model().export(tmp_path / "saved", verbose=False)
    for file in (tmp_path / "saved" / "variables").iterdir():
        file.unlink()
    with pytest.raises(ModelError, match="cannot be read as a SavedModel: ") as caught:
        load_model(tmp_path / "saved")
    assert "\n" not in str(caught.value)
