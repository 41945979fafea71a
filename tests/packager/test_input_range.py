"""Images in another range than the model was trained on."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from trimtab.errors import DataError
from trimtab.evaluate.input_range import check_input_range

CLASSES = 4


def images(count: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Images in 0..1 whose mean says their class."""
    generator = np.random.default_rng(0)
    labels = np.arange(count) % CLASSES
    x = generator.uniform(0, 0.1, (count, 8, 8, 1)) + labels[:, None, None, None] / CLASSES
    x[:, 0, 0, 0], x[:, 0, 1, 0] = 0, 1
    return x.astype(np.float32), labels


def model(wanted):
    """A classifier for means in the range that `wanted` brings 0..1 to; beyond it saturates."""
    centres = wanted(np.arange(CLASSES) / CLASSES + 0.05)

    def run(inputs):
        means = inputs[0].mean(axis=(1, 2, 3))
        return [-np.abs(means[:, None] - centres[None])]

    return run


def data(x, labels=None, task="classification"):
    test = SimpleNamespace(columns=(x,), labels=labels)
    return SimpleNamespace(test=test, task=task, source="watch.npz")


RANGES = {
    "0..255": lambda x: x * 255,
    "0..1": lambda x: x,
    "-1..1": lambda x: x * 2 - 1,
}


@pytest.mark.parametrize("given", RANGES)
@pytest.mark.parametrize("wanted", RANGES)
def test_a_wrong_range_is_an_error_where_labels_show_it(given, wanted):
    x, labels = images()
    dataset = data(RANGES[given](x), labels)
    if given == wanted:
        assert check_input_range(dataset, model(RANGES[wanted])) is None
        return
    far = "0..255" in (given, wanted)
    if not far:  # a quarter or more is right by chance, so that doubt stays
        found = None
        try:
            found = check_input_range(dataset, model(RANGES[wanted]))
        except DataError as error:
            found = str(error)
        assert found is not None
        assert f"({wanted})" in found
        return
    with pytest.raises(DataError, match=rf"watch\.npz: images are in {given}, .*\({wanted}\)"):
        check_input_range(dataset, model(RANGES[wanted]))


def test_the_message_says_what_was_seen_and_what_to_do():
    x, labels = images()
    with pytest.raises(
        DataError,
        match=r"watch.npz: images are in 0..255, and the model is right on 25% of 64 of them as "
        r"they are and on 100% with values divided by 255 \(0..1\); scale x_train and x_test so",
    ):
        check_input_range(data(x * 255, labels), model(RANGES["0..1"]))


def test_without_labels_it_is_said_to_be_likely():
    x, _ = images()
    said = check_input_range(data(x * 255), model(RANGES["0..1"]))
    assert said is not None
    assert "gives 100% of 64 of them the same class; with values divided by 255 (0..1)" in said
    assert check_input_range(data(x), model(RANGES["0..1"])) is None


@pytest.mark.parametrize(
    "dataset",
    [
        data(images()[0] * 255, images()[1], task="regression"),
        data(images()[0].reshape(64, 64) * 255, images()[1]),
        data(images()[0] * 1000, images()[1]),
        data((images()[0] * 255).astype(np.uint8), images()[1]),
    ],
    ids=["another task", "no images", "another range", "codes"],
)
def test_what_has_no_usual_range_is_left_alone(dataset):
    assert check_input_range(dataset, model(RANGES["0..1"])) is None


def test_a_model_on_disk_is_asked_when_its_data_is_loaded(tmp_path):
    import onnx_ir as ir

    from support.quant_graphs import TrainedLike
    from trimtab.workflow.source import load_source

    x, labels = images()
    b = TrainedLike(8, 8, 1)
    mean = b.op("ReduceMean", "x", axes=[1, 2, 3], keepdims=0)
    column = b.op("Reshape", mean, b.constant([-1, 1]))
    centres = b.constant(np.r_[np.arange(CLASSES) / CLASSES + 0.05, 9][None], np.float32)
    scores = b.op("Neg", b.op("Abs", b.op("Sub", column, centres)))
    ir.save(b.build(scores), tmp_path / "model.onnx")

    def load(scaled: np.ndarray) -> str | None:
        arrays = {"x_train": scaled, "x_test": scaled, "y_train": labels, "y_test": labels}
        np.savez(tmp_path / "data.npz", **arrays)
        return load_source(tmp_path / "model.onnx", tmp_path / "data.npz").doubt

    assert load(x) is None
    with pytest.raises(DataError, match=r"divided by 255 \(0..1\); scale x_train and x_test so"):
        load(x * 255)
