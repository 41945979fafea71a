"""The weight codec: every tensor comes back bit for bit, and what should be small is."""

from __future__ import annotations

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from trimtab.package.coding.segment import Segment, tensor
from trimtab.package.coding.stream import encode_stream
from trimtab_agent.coding.stream import SLICE_BYTES, decode_stream
from trimtab_agent.errors import FormatError

RANDOM = np.random.default_rng(20261122)
FLOATS = ("<f2", "<f4", "<f8")
DTYPES = (*FLOATS, "|i1", "|u1", "<i2", "<u2", "<i4", "<i8")


def whole(array, *, shaped=True):
    """The segment of a tensor that is a file of its own."""
    element = (array.itemsize, array.dtype.kind == "f")
    return [tensor(0, array.nbytes, element, array.shape if shaped else ())]


def coded(array, **options):
    """The stream of a tensor, after a check that it decodes to it."""
    stream = encode_stream(array.tobytes(), whole(array, **options)).data
    assert decoded(stream, array.nbytes) == array.tobytes()
    return stream


def decoded(stream, size_bytes):
    pieces = [stream[at : at + 1000] for at in range(0, len(stream), 1000)]
    return b"".join(decode_stream(pieces, size_bytes))


def entropy_bytes(symbols):
    counts = np.bincount(symbols.reshape(-1).view(np.uint8))
    shares = counts[counts > 0] / symbols.size
    return -(shares * np.log2(shares)).sum() * symbols.size / 8


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: npst.arrays(
            dtype,
            npst.array_shapes(max_dims=4, max_side=12),
            elements=npst.from_dtype(np.dtype(dtype), allow_nan=True),
        )
    )
)
def test_any_small_tensor_comes_back(array):
    coded(array)


@settings(max_examples=100, deadline=None)
@given(
    data=st.binary(max_size=3000),
    repeat=st.integers(1, 40),
    kind=st.sampled_from(["unknown", "structure"]),
)
def test_any_bytes_come_back(data, repeat, kind):
    content = data * repeat
    segments = [Segment(0, len(content), kind)] if content else []
    assert decoded(encode_stream(content, segments).data, len(content)) == content


def sparse(share, dtype=np.float32):
    values = RANDOM.normal(size=(300, 400)).astype(dtype)
    return values * (RANDOM.random(values.shape) < share)


def grid(rows, axis):
    codes = RANDOM.integers(-127, 128, (rows, 200)).astype(np.int8)
    codes[:, 0] = 127
    scales = RANDOM.uniform(1e-4, 1e-2, rows).astype(np.float32)
    weights = codes.astype(np.float32) * scales[:, None]
    return weights if axis == 0 else np.ascontiguousarray(weights.T)


def nan_payloads():
    bits = RANDOM.integers(0, 2**32, 50_000, dtype=np.uint32)
    return (bits | 0x7F800001).view(np.float32)


CASES = {
    "empty": (np.zeros((0, 4), np.float32), 1),
    "one element": (np.array([1.5], np.float32), 20),
    "one value": (np.full(100_000, 3.25, np.float32), 40),
    "zeros": (np.zeros((100, 100), np.int8), 40),
    "negative zeros": (-np.zeros(5000, np.float32), 40),
    "noise": (RANDOM.integers(0, 256, 100_000, np.uint8), 100_020),
    "every bit of a NaN": (nan_payloads(), 150_100),
    "signs": (RANDOM.choice(np.array([-1, 1], np.int8), 80_000), 10_050),
    "ternary": (RANDOM.choice(np.array([-1, 0, 1], np.int8), 80_000), 16_050),
    "four values of float16": (RANDOM.choice(RANDOM.normal(size=4), 40_000).astype("f2"), 10_050),
    "palette of 256": (RANDOM.choice(RANDOM.normal(size=256), 99_999).astype("f4"), 101_500),
    "clustered and pruned": (
        np.where(RANDOM.random(90_000) < 0.9, 0, RANDOM.integers(1, 9, 90_000)).astype("f4"),
        9_200,
    ),
    "pruned by a product": (sparse(0.1), 0.16 * 480_000),
    "pruned double": (sparse(0.1, np.float64), 0.13 * 960_000),
    "rows of a grid": (grid(50, 0), 50 * 204 + 100),
    "columns of a grid": (grid(50, 1), 50 * 204 + 100),
    "trained floats": (RANDOM.normal(size=(200, 300)).astype("f4"), 0.85 * 240_000),
    "floats from float16": (RANDOM.normal(size=60_000).astype("f2").astype("f4"), 0.43 * 240_000),
    "a slice and one": (np.arange(SLICE_BYTES + 1, dtype=np.uint8), 10_000),
    "counting": (np.arange(200_000, dtype=np.int32), 200_000),
}


@pytest.mark.parametrize("case", CASES)
def test_a_tensor_is_as_small_as_it_should_be(case):
    array, largest = CASES[case]
    assert len(coded(array)) <= largest


@pytest.mark.parametrize("case", CASES)
def test_no_tensor_is_larger_than_zstd_makes_it(case):
    array, _ = CASES[case]
    packed = zstandard.ZstdCompressor(level=19).compress(array.tobytes())
    assert len(coded(array)) <= len(packed)


@pytest.mark.parametrize("spread", [2, 10, 30])
def test_int8_is_within_a_hundredth_of_its_entropy(spread):
    codes = np.clip(np.rint(RANDOM.normal(size=(512, 600)) * spread), -127, 127).astype(np.int8)
    assert len(coded(codes)) < 1.01 * entropy_bytes(codes)


@pytest.mark.parametrize("axis", [0, 1])
def test_channels_of_their_own_scale_go_below_the_entropy(axis):
    scales = np.exp(RANDOM.uniform(0, 3.5, 400))
    weights = RANDOM.normal(size=(400, 400)) * scales[:, None]
    codes = np.rint(weights / np.abs(weights).max() * 127).astype(np.int8)
    codes = codes if axis == 0 else np.ascontiguousarray(codes.T)
    assert len(coded(codes)) < 0.92 * entropy_bytes(codes)
    assert len(coded(codes)) < len(coded(codes, shaped=False))


def test_a_tensor_of_many_slices_comes_back():
    codes = RANDOM.normal(size=(5, SLICE_BYTES // 4 + 77)).astype("f4")
    assert len(coded(codes)) < 0.85 * codes.nbytes


def file_of(arrays):
    """A file of tensors, a word of structure before each, and its segments."""
    data, found = b"", []
    for array in arrays:
        found.append(Segment(len(data), len(data) + 3, "structure"))
        start, stop = len(data) + 3, len(data) + 3 + array.nbytes
        found.append(tensor(start, stop, (array.itemsize, array.dtype.kind == "f"), array.shape))
        data += b"and" + array.tobytes()
    return data, found


def small_tensors(count, dtype="f4"):
    """Matrices of a few kilobytes, each of its own scale."""
    scales = np.exp(RANDOM.uniform(-4, 4, count))
    sizes = RANDOM.integers(100, 3000, count)
    return [(RANDOM.normal(size=n) * s).astype(dtype) for n, s in zip(sizes, scales, strict=True)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(DTYPES), st.integers(1, 400), st.floats(0.1, 1e3)), max_size=12
    ),
    st.integers(0, 2**32),
)
def test_any_small_tensors_come_back_from_their_pools(kinds, seed):
    random = np.random.default_rng(seed)
    arrays = [(random.normal(size=n) * scale).astype(dtype) for dtype, n, scale in kinds]
    data, parts = file_of(arrays)
    assert decoded(encode_stream(data, parts).data, len(data)) == data


def test_small_tensors_take_no_more_together_than_large_ones():
    arrays = small_tensors(80)
    data, parts = file_of(arrays)
    stream = encode_stream(data, parts).data
    assert decoded(stream, len(data)) == data
    assert len(stream) < 0.85 * len(data)


def test_more_small_tensors_than_pools_may_hold_come_back():
    data, parts = file_of(small_tensors(400, "f2"))
    assert len(data) > 1 << 20
    stream = encode_stream(data, parts).data
    assert decoded(stream, len(data)) == data
    assert len(stream) < 0.9 * len(data)


STREAM = coded(np.concatenate([sparse(0.2).ravel(), RANDOM.normal(size=5000)]).astype("f4"))
SIZE = 4 * (120_000 + 5000)
POOLED, POOLED_PARTS = file_of(small_tensors(8))
STREAMS = [(STREAM, SIZE), (encode_stream(POOLED, POOLED_PARTS).data, len(POOLED))]


@settings(max_examples=300, deadline=None)
@given(
    stream=st.sampled_from(STREAMS),
    at=st.integers(0, 1 << 30),
    bit=st.integers(0, 7),
    data=st.data(),
)
def test_a_damaged_stream_gives_other_bytes_or_a_format_error(stream, at, bit, data):
    damaged, size = bytearray(stream[0]), stream[1]
    at %= len(damaged)
    at = data.draw(st.sampled_from([at, at % 400]))  # headers are short: hit them more often
    damaged[at] ^= 1 << bit
    try:
        content = decoded(bytes(damaged), size)
    except FormatError:
        return
    assert len(content) == size


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 10_000))
def test_any_bytes_are_a_stream_or_a_format_error(data, size_bytes):
    for form in (b"", b"\x00", b"\x01", b"\x02"):
        try:
            content = decoded(form + data, size_bytes)
        except FormatError:
            continue
        assert len(content) == size_bytes


@pytest.mark.parametrize("keep", [0, 1, 2, 3, 50, 500, -1])
def test_a_stream_cut_short_is_a_format_error(keep):
    with pytest.raises(FormatError, match=r"early|zstd"):
        decoded(STREAM[:keep], SIZE)


def test_a_stream_that_goes_on_is_a_format_error():
    with pytest.raises(FormatError, match="goes on after its file"):
        decoded(STREAM + b"\x00", SIZE)
