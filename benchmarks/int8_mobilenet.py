"""MobileNetV2 at 224 in int8: its time on every runtime beside the runtimes' own tools.

    python benchmarks/int8_mobilenet.py --stamps FOLDER --cache FOLDER \
        [--only tflite onnxruntime openvino] [--rounds 15] [--json RESULT.json]

The weights are Keras' random ones, the batch norms have the statistics of photos, and the
classifier is scaled so that its answers are as sure as a trained one's: times depend on none of
that, and accuracy would mean nothing. Whether a file follows the float model can be told: by the
cosine of the logits on photos that calibrated nothing.
The bar: at most 1.02 of the best peer's time on each runtime. `photos.py` says what FOLDER is. The
model and the peers' files are kept in the cache folder.
Needs: trimtab, and what `int8_peers.py` and `photos.py` say.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from int8_peers import INT8_PEERS, keras_sources
from int8_report import FASTEST, argument_parser, report
from int8_rows import (
    FLOAT,
    OURS,
    File,
    answers,
    compress,
    cosine,
    made_all,
    measure,
    written,
)
from photos import load_photos

from trimtab.evaluate.data import Dataset, Split
from trimtab.graph.load import load_model

SIZE = 224
CALIBRATION_SAMPLES, TEST_SAMPLES = 64, 16
LOGITS_SPREAD = 3.0


def main() -> None:
    parser = argument_parser(str(__doc__))
    parser.add_argument("--stamps", type=Path, required=True)
    arguments = parser.parse_args()
    images, tests = (
        (pixels[:count] / np.float32(127.5) - 1).astype(np.float32)
        for pixels, count in zip(
            load_photos(arguments.stamps, SIZE), (CALIBRATION_SAMPLES, TEST_SAMPLES), strict=True
        )
    )
    path = make_model(arguments.cache / "mobilenet_v2.keras", images)
    model = load_model(path)
    data = Dataset(source="photos", train=Split(inputs=[images]), test=Split(inputs=[tests]))
    quantized = compress(model, {"steps": [{"quantize_int8": {}}]}, data)
    files = [
        file
        for name, graph in ((FLOAT, model), (OURS, quantized))
        for file in written(name, graph, arguments.cache, [tests], arguments.only)
    ]
    sources = keras_sources(path, arguments.cache / "keras")
    files += made_all(INT8_PEERS, sources, [images], arguments.cache / "peers", arguments.only)
    expected = logits(files[0], tests)

    def figures(file: File) -> dict[str, float]:
        return {"cosine": cosine(logits(file, tests), expected)}

    rows = measure(files, [tests[:1]], figures, arguments.rounds)
    report(rows, {OURS: FASTEST}, arguments.json)


def make_model(path: Path, images: np.ndarray) -> Path:
    """Writes MobileNetV2 with random weights, if it is not there yet."""
    if path.exists():
        return path
    import keras

    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2(weights=None)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0  # one batch in training mode sets the statistics
    model(images, training=True)
    classifier = model.layers[-1]
    kernel, bias = classifier.get_weights()
    spread = logits_of(model(images, training=False).numpy()).std()
    classifier.set_weights([kernel * (LOGITS_SPREAD / spread), bias])
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    return path


def logits(file: File, images: np.ndarray) -> np.ndarray:
    """Returns a file's logits, less their mean."""
    return logits_of(answers(file, [images]))


def logits_of(probabilities: np.ndarray) -> np.ndarray:
    """Returns the logarithms, less their mean; integer outputs have zeros."""
    found = np.log(np.maximum(probabilities, 1e-9))
    return found - found.mean(axis=1, keepdims=True)


if __name__ == "__main__":
    main()
