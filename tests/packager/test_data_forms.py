"""What `--data` takes besides a plain .npz: several inputs, images, a function; streaming."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from trimtab.errors import DataError
from trimtab.evaluate import data as data_module
from trimtab.evaluate import stored
from trimtab.evaluate.data import Dataset, Split, hold_out
from trimtab.evaluate.fit import check_fits
from trimtab.evaluate.load import fingerprint, load_data
from trimtab.evaluate.stored import StoredArray
from trimtab.workflow.source import prepare_data
from trimtab_agent.contract.manifest import TensorSpec

RNG = np.random.default_rng(0)
SOUND = TensorSpec(name="sound", shape=(None, 8), dtype="float32")
MOTION = TensorSpec(name="motion", shape=(None, 3), dtype="float32")
PHOTO = TensorSpec(name="photo", shape=(None, 5, 6, 3), dtype="float32")


def two_inputs(samples: int = 10) -> dict[str, np.ndarray]:
    return {
        f"x_{part}.{spec.name}": RNG.normal(size=(samples, spec.shape[1])).astype(np.float32)
        for part in ("train", "test")
        for spec in (MOTION, SOUND)
    }


@pytest.fixture
def save(tmp_path):
    def write(arrays):
        path = tmp_path / "data.npz"
        np.savez(path, **arrays)
        return path

    return write


def test_several_inputs_come_in_the_models_order(save):
    arrays = two_inputs()
    dataset = load_data(save(arrays), [SOUND, MOTION])
    check_fits(dataset, [SOUND, MOTION], (None, 2), "classification")
    assert [column.shape for column in dataset.train.inputs] == [(10, 8), (10, 3)]
    assert (dataset.test.inputs[0] == arrays["x_test.sound"]).all()


BAD_NAMES = {
    "one is missing": (
        lambda arrays: arrays.pop("x_test.sound"),
        "has no array x_test.sound",
    ),
    "one is misspelt": (
        lambda arrays: arrays.update({"x_train.sond": arrays.pop("x_train.sound")}),
        "has no array x_train.sound; ",
    ),
    "one is too many": (
        lambda arrays: arrays.update({"x_train.light": arrays["x_train.sound"]}),
        "has x_train.light, but the model's inputs are sound, motion",
    ),
}


@pytest.mark.parametrize("name", BAD_NAMES)
def test_inputs_by_the_wrong_name(save, name):
    spoil, message = BAD_NAMES[name]
    arrays = two_inputs()
    spoil(arrays)
    with pytest.raises(DataError) as caught:
        load_data(save(arrays), [SOUND, MOTION])
    assert message in str(caught.value)


MISFITS = {
    "inputs of different lengths": (
        {"x_train.sound": np.zeros((7, 8), np.float32)},
        "the inputs of x_train have different numbers of samples: [7, 10]",
    ),
    "a bad value": (
        {"x_test.motion": np.where(np.arange(10) == 4, np.nan, 1.0)[:, None] * np.ones(3, "f4")},
        "x_test.motion must be float32",
    ),
    "another scale": (
        {"x_test.sound": np.float32(255) * RNG.random((10, 8), np.float32)},
        "in the test samples; scale both the way",
    ),
    "groups of another length": (
        {"group_test": np.array(["a", "b"])},
        "group_test must have the shape [10], one group each, not [2]",
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_misfits(save, name):
    changed, message = MISFITS[name]
    dataset = load_data(save(two_inputs() | changed), [SOUND, MOTION])
    with pytest.raises(DataError) as caught:
        check_fits(dataset, [SOUND, MOTION], (None, 2), "classification")
    assert message in str(caught.value)


LABELS = {
    "regression of another shape": (
        "regression", (None, 2), np.zeros(4), "must have the shape [samples, 2], not [4]",
    ),
    "regression without a number": (
        "regression", (None, 1), np.array([1, np.inf, 2, 3]),
        "y_test has 1 samples whose values are not finite, the first is sample 1",
    ),
    "regression without spread": (
        "regression", (None, 1), np.ones(4), "y_test is the same for all samples",
    ),
    "regression of text": ("regression", (None, 1), np.array(list("abcd")), "must be numbers"),
    "tokens of another length": (
        "tokens", (None, 5, 3), np.zeros((4, 6), int), "have the shape [samples, 5], not [4, 6]",
    ),
    "tokens out of range": (
        "tokens", (None, 2, 3), np.full((4, 2), 3), "y_test has 8 labels outside 0 to 2",
    ),
    "tokens without positions": (
        "tokens", (None, 3), np.zeros(4, int), "the task tokens needs outputs [samples, positions",
    ),
    "ctc without a blank": (
        "ctc", (None, 9, 3), np.array([[0, 2]] * 4), "one of the two must be CTC's blank",
    ),
    "ctc of floats": (
        "ctc", (None, 9, 3), np.zeros((4, 2)), "must be whole numbers [samples, tokens], padded",
    ),
    "anomalies of three kinds": ("anomaly", (None, 1), np.arange(4), "must be 0 (normal) or 1"),
    "only normal samples": ("anomaly", (None, 1), np.zeros(4, int), "leaves the AUC undefined"),
}  # fmt: skip


@pytest.mark.parametrize("name", LABELS)
def test_labels_that_do_not_fit_the_task(name):
    task, output, labels, message = LABELS[name]
    x = np.zeros((4, 8), np.float32)
    train, test = Split(inputs=(x,)), Split(inputs=(x,), labels=labels)
    with pytest.raises(DataError) as caught:
        check_fits(Dataset(source="here", train=train, test=test), [SOUND], output, task)
    assert message in str(caught.value)


@settings(max_examples=40)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=60))
def test_holding_out_parts_every_sample_and_every_class(labels):
    numbers = np.arange(len(labels))
    train, test = hold_out(Split(inputs=(numbers,), labels=np.array(labels)))
    assert sorted([*train.inputs[0], *test.inputs[0]]) == numbers.tolist()
    assert len(test) == max(1, len(labels) // 5)
    for label in set(labels):
        of_class = (np.array(labels) == label).sum()
        assert abs((test.labels == label).sum() - of_class / 5) < 1.5
    again = hold_out(Split(inputs=(numbers,), labels=np.array(labels)))
    assert (again[1].inputs[0] == test.inputs[0]).all()


def test_without_test_samples_a_part_is_held_out(save):
    x = RNG.normal(size=(20, 8)).astype(np.float32)
    dataset = load_data(save({"x_train": x, "y_train": np.arange(20) % 2}), [SOUND])
    assert (len(dataset.train), len(dataset.test)) == (16, 4)
    check_fits(dataset, [SOUND], (None, 2), "classification")


def test_one_sample_cannot_be_parted(save):
    with pytest.raises(DataError, match="1 samples cannot be parted"):
        load_data(save({"x_train": np.zeros((1, 8), np.float32)}), [SOUND])


class Tape:
    """A column that is not in memory, and remembers how much of it was read at a time."""

    def __init__(self, samples: int) -> None:
        self.shape, self.dtype = (samples, 8), np.dtype(np.float32)
        self.most = 0

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index):
        numbers = np.arange(len(self))[index]
        self.most = max(self.most, len(numbers))
        return np.repeat(numbers[:, None], 8, axis=1).astype(np.float32)


def test_a_column_is_streamed():
    tape = Tape(1000)
    split = Split(inputs=(tape,)).subset(np.arange(0, 1000, 2))
    batches = [x for (x,) in split.batches(64)]
    assert np.concatenate(batches)[:, 0].tolist() == list(range(0, 1000, 2))
    assert tape.most == 64
    assert split.take(np.array([3, 1]))[0][:, 0].tolist() == [6, 2]


def test_what_is_larger_than_memory_may_be_is_not_materialised(monkeypatch):
    monkeypatch.setattr(data_module, "MEMORY_BOUND_BYTES", 1000)
    assert Split(inputs=(Tape(20),)).inputs[0].shape == (20, 8)
    with pytest.raises(DataError, match=r"40 samples take 0.0 GB in memory, more than"):
        _ = Split(inputs=(Tape(40),)).inputs


# ---------------------------------------------------------------------------- large files


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_large_arrays_stay_in_the_file(tmp_path, monkeypatch, write, order):
    monkeypatch.setattr(stored, "LARGE_BYTES", 400)
    x = np.asarray(RNG.normal(size=(30, 8)).astype(np.float32), order=order)
    path = tmp_path / "data.npz"
    write(path, x_train=x, y_train=np.arange(30) % 2, x_test=x[:3], y_test=np.zeros(3, int))
    dataset = load_data(path, [SOUND])
    (column,) = dataset.train.columns
    assert isinstance(column, StoredArray)
    assert isinstance(dataset.test.columns[0], np.ndarray)
    np.testing.assert_array_equal(column[3:9], x[3:9])
    np.testing.assert_array_equal(dataset.train.take(np.array([29, 4]))[0], x[[29, 4]])
    assert column[1:4].flags.aligned
    assert dataset.train.labels.tolist() == [0, 1] * 15


def test_large_pickled_objects_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "LARGE_BYTES", 1)
    path = tmp_path / "data.npz"
    np.savez(path, x_train=np.array([{"a": 1}] * 20, object))
    with pytest.raises(DataError, match="pickled objects, which are never loaded"):
        load_data(path, [SOUND])


@pytest.mark.parametrize("bound", [1, 10**9])
def test_a_bad_value_is_named_by_its_row_in_the_file(save, monkeypatch, bound):
    """Also where the file has no test part, and in what is not in memory."""
    monkeypatch.setattr(stored, "LARGE_BYTES", bound)
    x = RNG.normal(size=(900, 8)).astype(np.float32)
    x[707, 3] = np.nan
    dataset = load_data(save({"x_train": x}), [SOUND])
    with pytest.raises(DataError) as caught:
        check_fits(dataset, [SOUND], (None, 2), "classification")
    assert str(caught.value).endswith(
        "x_train has 1 values that are not finite, the first in sample 707"
    )


def test_channels_in_another_place_are_told_with_the_way_out(save):
    x = np.zeros((4, 3, 5, 6), np.float32)
    with pytest.raises(DataError) as caught:
        check_fits(load_data(save({"x_train": x}), [PHOTO]), [PHOTO], (None, 2), "classification")
    assert "; its channels are elsewhere: " in str(caught.value)
    assert "numpy.transpose(x, (0, 2, 3, 1)) moves them" in str(caught.value)
    assert np.transpose(x, (0, 2, 3, 1)).shape[1:] == PHOTO.shape[1:]


# ---------------------------------------------------------------------------- images


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    for part, count in (("train", 6), ("test", 3)):
        for name, level in (("dark", 0), ("light", 255)):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.full((9, 11, 3), level, np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{number}.png")
    return folder


def test_images_are_resized_scaled_and_labelled(photos):
    dataset = load_data(photos, [PHOTO])
    check_fits(dataset, [PHOTO], (None, 2), "classification")
    assert dataset.class_names == ("dark", "light")
    assert dataset.test.labels.tolist() == [0, 0, 0, 1, 1, 1]
    (batch,) = next(dataset.test.batches(6))
    assert (batch.shape, batch.dtype) == ((6, 5, 6, 3), np.float32)
    assert batch[:3].max() == 0
    assert batch[3:].min() == 1
    assert len(dataset.calibration(5, seed=0)[0]) == 5


@pytest.mark.parametrize(
    ("mode", "name", "level"),
    [("L", "0.png", 1.0), ("RGBA", "0.webp", 1.0), ("P", "0.gif", 1.0), ("I;16", "0.png", 1.0)],
)
def test_grey_transparent_and_deep_images_become_what_the_model_takes(photos, mode, name, level):
    place = photos / "test" / "light"
    for path in place.iterdir():
        path.unlink()
    if mode == "I;16":
        image = Image.fromarray(np.full((9, 11), 65535, np.uint16))
    else:
        image = Image.fromarray(np.full((9, 11, 3), 255, np.uint8)).convert(mode)
    image.save(place / name, **({"lossless": True} if name.endswith("webp") else {}))
    dataset = load_data(photos, [PHOTO])
    (batch,) = dataset.test.take(np.array([3]))
    assert batch.min() == level


def test_photos_are_turned_upright(photos):
    pixels = np.zeros((10, 12, 3), np.uint8)
    pixels[:5] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # taken upside down
    Image.fromarray(pixels).save(photos / "test" / "light" / "0.png", exif=exif)
    (batch,) = load_data(photos, [PHOTO]).test.take(np.array([3]))
    assert batch[0, 0].max() == 0
    assert batch[0, -1].min() == 1


def test_declared_preprocessing(photos):
    (photos / "data.yaml").write_text(
        "{scale: 0.5, mean: [1, 2, 3], std: 2, layout: nchw, size: [4, 6], classes: [light, dark]}"
    )
    spec = TensorSpec(name="photo", shape=(None, 3, None, None), dtype="float32")
    dataset = load_data(photos, [spec])
    (light,) = dataset.test.take(np.array([0]))
    assert light.shape == (1, 3, 4, 6)
    assert light[0, :, 0, 0].tolist() == [(127.5 - mean) / 2 for mean in (1, 2, 3)]


def test_integer_models_get_the_pixels_as_they_are(photos):
    spec = TensorSpec(name="photo", shape=(None, 5, 6, 1), dtype="uint8")
    (batch,) = next(load_data(photos, [spec]).test.batches(6))
    assert batch.dtype == np.uint8
    assert sorted(set(batch.ravel().tolist())) == [0, 255]


def test_images_without_parts_are_held_out(photos):
    dataset = load_data(photos / "train", [PHOTO])
    assert (len(dataset.train), len(dataset.test)) == (10, 2)


def spoil_png(folder: Path) -> None:
    (folder / "train" / "dark" / "0.png").write_text("no image")


BAD_FOLDERS = {
    "unknown key": (
        lambda folder: (folder / "data.yaml").write_text("scael: 1"),
        "data.yaml: Object contains unknown field `scael`",
    ),
    "another size": (
        lambda folder: (folder / "data.yaml").write_text("size: [8, 8]"),
        "size is [8, 8], the model takes [5, 6]",
    ),
    "means for other channels": (
        lambda folder: (folder / "data.yaml").write_text("mean: [1, 2]"),
        "mean has 2 numbers for 3 channels",
    ),
    "a zero to divide by": (
        lambda folder: (folder / "data.yaml").write_text("std: [1, 0, 1]"),
        "std has a zero",
    ),
    "layout that the model does not have": (
        lambda folder: (folder / "data.yaml").write_text("layout: nchw"),
        "is no image of 1, 3 or 4 channels in the layout nchw",
    ),
    "class without images": (
        lambda folder: (folder / "data.yaml").write_text("classes: [red]"),
        "has no images in its folders red",
    ),
    "class in the test part only": (
        lambda folder: (folder / "test" / "grey").mkdir(),
        "has the classes grey, which are not among the training part's: dark, light",
    ),
    "a file that is no image": (spoil_png, "0.png is no image"),
}


@pytest.mark.parametrize("name", BAD_FOLDERS)
def test_bad_folders(photos, name):
    spoil, message = BAD_FOLDERS[name]
    spoil(photos)
    with pytest.raises(DataError) as caught:
        load_data(photos, [PHOTO])
    assert message in str(caught.value)


def test_an_image_that_is_cut_short_is_named(photos):
    path = photos / "test" / "light" / "1.png"
    noise = RNG.integers(0, 256, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:5000])
    dataset = load_data(photos, [PHOTO])
    with pytest.raises(DataError, match=r"light/1\.png cannot be read as an image"):
        list(dataset.test.batches(2))


def test_a_model_that_takes_no_images(photos):
    with pytest.raises(DataError, match=r"input sound has the shape \[samples, 8\], which is no"):
        load_data(photos, [SOUND])
    with pytest.raises(DataError, match="the model has 2 inputs"):
        load_data(photos, [SOUND, MOTION])
    free = TensorSpec(name="photo", shape=(None, None, None, 3), dtype="float32")
    with pytest.raises(DataError, match="images of any size; give `size`"):
        load_data(photos, [free])


# ---------------------------------------------------------------------------- functions

FUNCTIONS = """
import numpy as np
from trimtab.evaluate.data import Dataset, Split

def arrays():
    x = np.ones((10, 8), np.float32)
    return {"x_train": x, "x_test": x, "y_test": [0, 1] * 5, "group_test": ["a"] * 10}

def dataset():
    split = Split(inputs=(np.ones((4, 8), np.float32),))
    return Dataset(source="mine", train=split, test=split)

def number():
    return 3

def stream():
    def batches(count):
        for start in range(count):
            yield np.full((4, 8), start, np.float32)
    return {
        "x_train": batches(5), "x_test": batches(2),
        "y_train": (np.arange(4) % 2 for _ in range(5)), "y_test": [0, 1] * 4,
    }

def uneven():
    return {"x_train": (np.zeros((2, 8 - i), np.float32) for i in range(2))}

def fails():
    def batches():
        yield np.zeros((2, 8), np.float32)
        raise RuntimeError("sensor gone")
    return {"x_train": batches()}

def broken():
    raise OSError("no such table")
"""


@pytest.fixture
def functions(tmp_path, monkeypatch):
    (tmp_path / "my_data.py").write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("my_data", None)


@pytest.mark.usefixtures("functions")
def test_a_function_gives_arrays_or_a_data_set():
    dataset = load_data("my_data:arrays", [SOUND])
    assert dataset.test.labels.tolist() == [0, 1] * 5
    assert dataset.test.groups.tolist() == ["a"] * 10
    assert len(load_data(Path("my_data:dataset"), [SOUND]).train) == 4


@pytest.mark.usefixtures("functions")
def test_a_function_may_give_batches_one_after_another():
    dataset = load_data("my_data:stream", [SOUND])
    check_fits(dataset, [SOUND], (None, 2), "classification")
    assert isinstance(dataset.train.columns[0], StoredArray)
    assert dataset.train.columns[0].shape == (20, 8)
    assert dataset.train.take(np.array([19, 0]))[0][:, 0].tolist() == [4, 0]
    assert dataset.train.labels.tolist() == [0, 1] * 10


@pytest.mark.usefixtures("functions")
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("my_data:number", "must return a mapping with x_train and the like, or a Dataset; it"),
        (
            "my_data:uneven",
            "x_train: batch 1 is float32 [7] a sample, those before",
        ),
        ("my_data:fails", "my_data:fails: x_train failed: RuntimeError: sensor gone"),
        ("my_data:broken", "my_data:broken failed: OSError: no such table"),
        ("my_data:none", "module my_data has no function none"),
        ("my_data", "my_data cannot be read: No such file"),
    ],
)
def test_a_function_that_gives_none(source, message):
    with pytest.raises(DataError) as caught:
        load_data(source, [SOUND])
    assert message in str(caught.value)


def test_data_sets_are_told_apart(photos, save):
    path = save(two_inputs())
    assert fingerprint(path) == fingerprint(path)
    before = fingerprint(photos)
    (photos / "train" / "dark" / "0.png").unlink()
    assert len({before, fingerprint(photos), fingerprint(path), fingerprint("a:b")}) == 4


@pytest.mark.parametrize(("task", "kept"), [("classification", True), ("embeddings", False)])
def test_techniques_see_labels_only_where_outputs_should_be_them(save, task, kept):
    x = RNG.normal(size=(10, 8)).astype(np.float32)
    labels = np.arange(10) % 2
    path = save({"x_train": x, "y_train": labels, "x_test": x, "y_test": labels})
    dataset = prepare_data(path, [SOUND], (None, 2), task)
    assert (dataset.train.labels is not None) == kept
    assert dataset.test.labels is not None
    assert dataset.task == task
