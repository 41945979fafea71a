"""Data sets: what loads, what is drawn for calibration, and what is refused in which words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import DataError
from trimtab.evaluate.data import Dataset, Split
from trimtab.evaluate.fit import check_fits
from trimtab.evaluate.load import load_data
from trimtab_agent.contract.manifest import TensorSpec

INPUT = TensorSpec(name="x", shape=(None, 4, 2), dtype="float32")
OUTPUT = (None, 3)
RNG = np.random.default_rng(0)


def good() -> dict[str, np.ndarray]:
    return {
        "x_train": RNG.normal(size=(10, 4, 2)).astype(np.float32),
        "y_train": np.arange(10) % 3,
        "x_test": RNG.normal(size=(6, 4, 2)).astype(np.float32),
        "y_test": np.arange(6) % 3,
    }


def spoil(array: np.ndarray, value: float) -> np.ndarray:
    spoilt = array.copy()
    spoilt.flat[1] = value
    return spoilt


MISFITS = {
    "another shape": (
        {"x_test": np.zeros((6, 4, 3), np.float32)},
        "x_test must have the shape [samples, 4, 2], not [6, 4, 3]",
    ),
    "no batch axis": (
        {"x_train": np.zeros((4, 2), np.float32), "y_train": np.zeros(4, int)},
        "x_train must have the shape [samples, 4, 2], not [4, 2]",
    ),
    "a single number": (
        {"x_train": np.float32(1), "y_train": np.zeros(0, int)},
        "x_train must have the shape [samples, 4, 2], not []",
    ),
    "empty": (
        {"x_test": np.zeros((0, 4, 2), np.float32), "y_test": np.zeros(0, int)},
        "x_test is empty",
    ),
    "another dtype": ({"x_train": np.zeros((10, 4, 2))}, "x_train must be float32, not float64"),
    "not a number": (
        {"x_test": spoil(np.zeros((6, 4, 2), np.float32), np.nan)},
        "x_test has 1 values that are not finite",
    ),
    "infinite": (
        {"x_test": spoil(np.zeros((6, 4, 2), np.float32), np.inf)},
        "x_test has 1 values that are not finite",
    ),
    "too few labels": ({"y_test": np.zeros(5, int)}, "y_test has 5 labels for 6 samples"),
    "float labels": (
        {"y_train": np.zeros(10)},
        "y_train must be whole class numbers, such as int64, not float64",
    ),
    "one-hot labels": (
        {"y_test": np.eye(6, 3, dtype=int)},
        "y_test must have the shape [samples], one class number each, not [6, 3]",
    ),
    "label too high": (
        {"y_test": np.array([0, 1, 2, 3, 0, 1])},
        "y_test has 1 labels outside 0 to 2, such as 3 of sample 3: the model tells 3 classes",
    ),
    "label below zero": (
        {"y_train": spoil(np.zeros(10, int), -1)},
        "y_train has 1 labels outside 0 to 2, such as -1",
    ),
}


@pytest.fixture
def save(tmp_path):
    def write(**arrays):
        path = tmp_path / "data.npz"
        np.savez(path, **arrays)
        return path

    return write


def test_good_data_fits(save):
    dataset = load_data(save(**good()), [INPUT])
    check_fits(dataset, [INPUT], OUTPUT, "classification")
    assert (len(dataset.train), len(dataset.test)) == (10, 6)


def test_labels_are_optional_and_other_arrays_are_left_alone(save):
    arrays = good()
    del arrays["y_train"], arrays["y_test"]
    dataset = load_data(save(**arrays, subject=np.array(["a"])), [INPUT])
    check_fits(dataset, [INPUT], OUTPUT, "classification")
    assert dataset.train.labels is None
    assert dataset.test.labels is None


@pytest.mark.parametrize("name", sorted(MISFITS))
def test_misfit(save, name):
    changed, message = MISFITS[name]
    path = save(**{**good(), **changed})
    with pytest.raises(DataError) as caught:
        check_fits(load_data(path, [INPUT]), [INPUT], OUTPUT, "classification")
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_every_fault_is_named_at_once(save):
    changed = {name: array for arrays, _ in MISFITS.values() for name, array in arrays.items()}
    with pytest.raises(DataError) as caught:
        check_fits(
            load_data(save(**{**good(), **changed}), [INPUT]), [INPUT], OUTPUT, "classification"
        )
    assert all(name in str(caught.value) for name in ("x_train", "x_test", "y_train", "y_test"))


def test_a_model_with_two_inputs(save):
    with pytest.raises(DataError, match=r"one array x_train for a model with 2 inputs; name them"):
        load_data(save(**good()), [INPUT, INPUT])


def test_missing_arrays_are_named(save):
    with pytest.raises(DataError, match="has no array x_train; it must have"):
        load_data(save(x_tets=np.zeros(1)), [INPUT])


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"none\.npz cannot be read: No such file"):
        load_data(tmp_path / "none.npz", [INPUT])


def test_directory(tmp_path):
    with pytest.raises(DataError, match=r"has no folders of images|is a folder of images"):
        load_data(tmp_path, [INPUT])


def test_a_file_that_is_no_archive(tmp_path):
    path = tmp_path / "data.npz"
    path.write_text("x_train")
    with pytest.raises(DataError, match=r"is no \.npz file; make one with numpy\.savez"):
        load_data(path, [INPUT])


def test_pickled_objects_are_never_loaded(save):
    path = save(**{**good(), "x_train": np.array([{"a": 1}], dtype=object)})
    with pytest.raises(DataError, match="holds pickled objects, which are never loaded"):
        load_data(path, [INPUT])


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_file(tmp_path, compressed):
    path = tmp_path / "data.npz"
    (np.savez_compressed if compressed else np.savez)(path, **good())
    data = bytearray(path.read_bytes())
    data[200:260] = bytes(60)  # inside the first array
    path.write_bytes(data)
    with pytest.raises(DataError, match="is damaged"):
        load_data(path, [INPUT])


@given(samples=st.integers(1, 40), count=st.integers(1, 60), seed=st.integers(0, 99))
def test_calibration_draws_without_replacement_and_keeps_inputs_together(samples, count, seed):
    inputs = (np.arange(samples), np.arange(samples) * 10)
    split = Split(inputs=inputs, labels=None)
    dataset = Dataset(source="here", train=split, test=split)
    first, second = dataset.calibration(count, seed)
    assert len(first) == len(set(first.tolist())) == min(samples, count)
    assert (second == first * 10).all()
    assert (dataset.calibration(count, seed)[0] == first).all()
