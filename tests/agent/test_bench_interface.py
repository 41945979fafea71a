"""A model against what its manifest tells the application of it, and golden files that boast."""

from __future__ import annotations

import io
import zipfile

import msgspec
import numpy as np
import pytest

from support.models import write_model, write_square
from trimtab_agent import runtimes
from trimtab_agent.bench.golden import load_samples
from trimtab_agent.bench.interface import Interface, check_interface
from trimtab_agent.contract.manifest import Quantization, TensorSpec
from trimtab_agent.errors import FormatError


class Model:
    """A loaded model, as far as it says what it is."""

    inputs = (
        TensorSpec(
            name="x",
            shape=(None, 4),
            dtype="int8",
            quantization=Quantization(scales=(0.1,), zero_points=(3,)),
        ),
    )
    outputs = (TensorSpec(name="y", shape=(1, 2), dtype="float32"),)


def told(**changes) -> Interface:
    """Returns what the model says, with fields of its input changed."""
    return Interface(
        inputs=(msgspec.structs.replace(Model.inputs[0], **changes),), outputs=Model.outputs
    )


def scaled(scale: float, zero: int, *more: float) -> Quantization:
    return Quantization(scales=(scale, *more), zero_points=(zero, *(zero for _ in more)))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"shape": (1, 4)},
        {"shape": (None, None)},
        {"quantization": None},
        {"quantization": scaled(float(np.float32(0.1)), 3)},
    ],
)
def test_what_may_be_the_same_is(changes):
    check_interface(Model(), told(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "z"}, "input 0 is told to be 'z', and is 'x'"),
        ({"dtype": "uint8"}, r"input 0 \(x\) is told to be uint8, and is int8"),
        ({"shape": (None, 5)}, r"told to have the shape \[\?, 5\], and has \[\?, 4\]"),
        ({"shape": (4,)}, r"told to have the shape \[4\], and has \[\?, 4\]"),
        ({"quantization": scaled(0.1, 4)}, r"input 0 \(x\) is told other scales or zero points"),
        ({"quantization": scaled(0.11, 3)}, "told other scales or zero points"),
        ({"quantization": scaled(0.1, 3, 0.2)}, "told other scales or zero points"),
    ],
)
def test_what_differs_is_named(changes, message):
    with pytest.raises(FormatError, match=f"the manifest does not describe the model: .*{message}"):
        check_interface(Model(), told(**changes))


def test_numbers_of_outputs_and_every_fault_at_once():
    both = Interface(inputs=told(name="z", dtype="uint8").inputs, outputs=Model.outputs * 2)
    with pytest.raises(FormatError) as caught:
        check_interface(Model(), both)
    assert str(caught.value).count(";") == 2
    assert "it tells of 2 outputs, the model has 1" in str(caught.value)


def test_an_output_of_unknown_shape_fits_every_shape():
    model = Model()
    model.outputs = (TensorSpec(name="y", shape=(), dtype="float32"),)
    check_interface(model, Interface(inputs=Model.inputs, outputs=Model.outputs))


@pytest.mark.parametrize("runtime", ["tflite", "onnxruntime", "openvino"])
@pytest.mark.parametrize("batch", [1, None])
def test_every_runtime_tells_the_same_of_a_file_twice(runtime, batch, tmp_path):
    model = write_model(runtime, tmp_path, batch=batch)
    one, other = runtimes.load(runtime, model), runtimes.load(runtime, model, threads=2)
    check_interface(one, Interface(inputs=other.inputs, outputs=other.outputs))
    with pytest.raises(FormatError, match="is told to be 'alpha', and is 'zeta'"):
        check_interface(one, Interface(inputs=other.inputs[::-1], outputs=other.outputs))


def test_a_type_that_numpy_lacks_is_told_alike(tmp_path):
    session = runtimes.load("onnxruntime", write_square(tmp_path, "float16"))
    check_interface(session, Interface(inputs=session.inputs, outputs=session.outputs))


def test_a_golden_file_must_not_be_compressed(tmp_path):
    path = tmp_path / "golden.npz"
    np.savez_compressed(path, in_0=np.zeros((4, 1000)), out_0=np.zeros((4, 1000)))
    with pytest.raises(FormatError, match=r"in_0\.npy, out_0\.npy must be stored, not compressed"):
        load_samples(path)


def test_a_header_that_promises_terabytes_is_refused(tmp_path):
    path, entry = tmp_path / "golden.npz", io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)}
    np.lib.format.write_array_header_1_0(entry, header)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("in_0.npy", entry.getvalue() + bytes(64))
    with pytest.raises(FormatError, match=r"golden\.npz cannot be read"):
        load_samples(path)
