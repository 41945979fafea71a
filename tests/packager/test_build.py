"""Building packages: what is written, that it is reproducible, and what is refused."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.packages import MODEL, describe, golden, make_package, model_bytes
from trimtab.errors import DataError
from trimtab.package.archive import write_archive
from trimtab.package.build import build_package
from trimtab.package.files import replacing, write_atomically
from trimtab.package.golden import GoldenSamples, encode_golden
from trimtab.package.read import open_package
from trimtab_agent.contract import chunks
from trimtab_agent.contract.manifest import Golden, RuntimeSpec
from trimtab_agent.errors import CallerError, FormatError, StorageError

GOLDEN_FILE = Path(__file__).parent / "data" / "tiny-1.trimtab"
GOLDEN_SHA256 = "91ac529e5f3ddeb3e203b7d2c770f6d586a49c5b531423c371aa330d4f2180a9"


def test_a_package_holds_its_files(tmp_path):
    path = make_package(tmp_path)
    package = open_package(path)
    assert path.name == "demo-1.trimtab"
    assert package.read_file(MODEL) == model_bytes()
    with np.load(io.BytesIO(package.read_file("golden.npz"))) as arrays:
        assert sorted(arrays.files) == ["in_0", "out_0"]
        np.testing.assert_array_equal(arrays["in_0"], golden().inputs[0])
    assert package.manifest.golden == Golden(path="golden.npz", count=3, max_abs_error=1e-3)


def test_sizes_are_those_of_the_bytes(tmp_path):
    path = make_package(tmp_path)
    sizes = open_package(path).manifest.sizes
    with zipfile.ZipFile(path) as archive:
        on_wire = sum(i.file_size for i in archive.infolist() if i.filename != "manifest.json")
    assert sizes.wire_bytes == on_wire < 200_000
    assert sizes.file_bytes == 300_000
    assert sizes.weight_bytes == 1000


def test_the_same_input_gives_the_same_bytes(tmp_path):
    first = make_package(tmp_path).read_bytes()
    second = make_package(tmp_path).read_bytes()
    assert first == second


def test_entries_are_stored_sorted_and_dated_1980(tmp_path):
    with zipfile.ZipFile(make_package(tmp_path)) as archive:
        infos = archive.infolist()
    assert [i.filename for i in infos] == sorted(i.filename for i in infos)
    assert {i.compress_type for i in infos} == {zipfile.ZIP_STORED}
    assert {i.date_time for i in infos} == {(1980, 1, 1, 0, 0, 0)}


def test_golden_file_of_the_format():
    """A package of the first release must be read, and be written the same, for ever."""
    data = GOLDEN_FILE.read_bytes()
    assert hashlib.sha256(data).hexdigest() == GOLDEN_SHA256
    package = open_package(GOLDEN_FILE)
    assert package.manifest.target_name == "tiny-1.json"
    assert package.read_file(MODEL) == b"not a model, but 32 bytes of it\n" + bytes(2000)
    again = io.BytesIO()
    wire = sorted((f"chunks/{c.sha256}", w) for c, w in package.wire_chunks())
    write_archive(again, [*wire, ("manifest.json", package.manifest_bytes)])
    assert again.getvalue() == data


@settings(max_examples=60, deadline=None)
@given(
    data=st.binary(max_size=5000),
    limit=st.integers(1, 700),
    boundaries=st.lists(st.integers(-10, 6000), max_size=20),
)
def test_cuts_join_to_the_whole_within_the_limit(data, limit, boundaries):
    ranges = list(chunks.cuts(len(data), boundaries=boundaries, limit_bytes=limit))
    assert b"".join(data[r.start : r.stop] for r in ranges) == data
    assert all(0 < len(r) <= limit for r in ranges)


@settings(max_examples=15, deadline=None)
@given(data=st.binary(max_size=3000), limit=st.integers(64, 1000))
def test_any_file_comes_back(data, limit, tmp_path_factory):
    directory = tmp_path_factory.mktemp("package")
    path = make_package(directory, data=data, chunk_limit_bytes=limit)
    package = open_package(path)
    assert package.read_file(MODEL) == data
    assert all(len(wire) <= limit for _, wire in package.wire_chunks())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"name": "Demo One"}, FormatError, r"manifest of Demo One-1 cannot be read.*\$\.name"),
        ({"version": ""}, FormatError, r"\$\.version"),
        (
            {"runtime": RuntimeSpec(name="tflite", model=MODEL, options={"turbo": 1})},
            CallerError,
            "cannot carry its session options: tflite does not know the option 'turbo'",
        ),
        (
            {"runtime": RuntimeSpec(name="tflite", model="other.tflite")},
            FormatError,
            "model 'other.tflite' is not among the files",
        ),
        (
            {"inputs": ()},
            DataError,
            r"golden inputs are \['float32'\]; the model's",
        ),
    ],
)
def test_a_bad_description_is_refused(change, error, message, tmp_path):
    with pytest.raises(error, match=message):
        make_package(tmp_path, **change)
    assert not list(tmp_path.glob("*.trimtab"))


@pytest.mark.parametrize(
    "name", ["../up", "/absolute", "a//b", "golden.npz", ".hidden", "with space", ""]
)
def test_a_path_that_leaves_the_package_is_refused(name, tmp_path):
    source = tmp_path / "m"
    source.write_bytes(b"1")
    with pytest.raises(CallerError, match="cannot be a path in a package"):
        build_package(tmp_path, description=describe(), files={name: source}, golden=golden())


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CallerError, match=r"cannot read .*gone for the package: No such file"):
        build_package(
            tmp_path,
            description=describe(),
            files={MODEL: tmp_path / "gone"},
            golden=golden(),
        )


@pytest.mark.parametrize("limit", [0, -1, chunks.MAX_CHUNK_BYTES + 1])
def test_an_impossible_chunk_limit_is_refused(limit, tmp_path):
    with pytest.raises(CallerError, match="chunk limit must be"):
        make_package(tmp_path, chunk_limit_bytes=limit)


ONE = np.ones((1, 4), np.float32)


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ([], [ONE], "at least one input and one output"),
        ([ONE], [], "at least one input and one output"),
        ([ONE], [np.ones((2, 2), np.float32)], "must lie along axis 0"),
        ([ONE[:0]], [ONE[:0]], "one or more"),
        ([np.float32(1)], [np.float32(1)], "must lie along axis 0"),
        ([ONE * np.nan], [ONE], "infinities or NaN"),
        ([np.array([object()])], [ONE], "must be numbers"),
    ],
)
def test_golden_samples_that_do_not_fit_are_refused(inputs, outputs, message):
    with pytest.raises(DataError, match=message):
        encode_golden(GoldenSamples(inputs=inputs, outputs=outputs, max_abs_error=0.0))


def test_golden_bytes_do_not_depend_on_memory_layout():
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    plain = GoldenSamples(inputs=[array], outputs=[array], max_abs_error=0.0)
    other = np.asfortranarray(array).astype(">f4")
    assert encode_golden(plain) == encode_golden(
        GoldenSamples(inputs=[other], outputs=[other], max_abs_error=0.0)
    )


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "kept"
    path.write_bytes(b"old")

    def write_half():
        with replacing(path) as stream:
            stream.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_that_refuses_a_file_is_a_storage_error():
    with pytest.raises(StorageError, match="writing /proc/new failed: No such file"):
        write_atomically(Path("/proc/new"), b"x")
