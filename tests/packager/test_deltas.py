"""Deltas: small where little changed, and the file comes back bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from support.chunk_packs import packed
from support.packages import make_package
from support.reports import make_report
from trimtab.fleet.reports import ReportStore
from trimtab.package.coding.segment import Segment
from trimtab.package.coding.segments import segments
from trimtab.package.coding.stream import encode_delta
from trimtab.package.read import open_package
from trimtab.workflow.bases import bases_for, choose
from trimtab.workflow.workspace import Workspace
from trimtab_agent.coding.stream import decode_stream
from trimtab_agent.contract.chunks import all_chunks, distinct_chunks, sha256_hex
from trimtab_agent.errors import FormatError, IntegrityError
from trimtab_agent.store import Store

RANDOM = np.random.default_rng(20261122)
MODEL = "model.onnx"


class Bytes:
    """A base in memory."""

    def __init__(self, data):
        self._data = data

    def read(self, offset, count):
        if offset + count > len(self._data):
            raise FormatError("past the end")
        return self._data[offset : offset + count]


def model(tensors, doc=""):
    initializers = [numpy_helper.from_array(t, f"t{i}") for i, t in enumerate(tensors)]
    graph = helper.make_graph([], "g", [], [], initializer=initializers, doc_string=doc)
    return helper.make_model(graph).SerializeToString()


def delta_bytes(before, after):
    """The size of a delta between two models, after a check that it leads to the second."""
    parts = [segments("m.onnx", {"m.onnx": data}) for data in (after, before)]
    stream = encode_delta(after, parts[0], before, parts[1]).data
    assert b"".join(decode_stream([stream], len(after), base=Bytes(before))) == after
    return len(stream)


def codes(weights):
    return np.clip(np.rint(weights / 0.1 * 127), -127, 127).astype(np.int8)


WEIGHTS = [RANDOM.normal(size=(128, 300)) * 0.02 for _ in range(4)]


def test_steps_of_the_grid_take_their_entropy():
    before = [codes(w) for w in WEIGHTS]
    after = [codes(w + RANDOM.normal(size=w.shape) * 2e-4) for w in WEIGHTS]
    change = np.concatenate([(b - a).ravel() for a, b in zip(after, before, strict=True)])
    shares = np.unique(change, return_counts=True)[1] / change.size
    entropy = -(shares * np.log2(shares)).sum() * change.size / 8
    assert delta_bytes(model(before), model(after)) < 1.01 * entropy + 300


def test_a_new_head_costs_only_the_head():
    before = [w.astype(np.float32) for w in WEIGHTS]
    after = [*before[:3], (WEIGHTS[3] + 1e-4).astype(np.float32)]
    assert delta_bytes(model(before), model(after)) < 0.8 * before[3].nbytes


def test_fine_tuned_floats_share_their_high_bits():
    before = [w.astype(np.float32) for w in WEIGHTS]
    after = [(w * (1 + 1e-5 * RANDOM.normal(size=w.shape))).astype(np.float32) for w in before]
    assert delta_bytes(model(before), model(after)) < 0.4 * sum(w.nbytes for w in before)


def test_nothing_changed_is_a_few_bytes():
    data = model([codes(w) for w in WEIGHTS])
    assert delta_bytes(data, data) < 20


def test_other_text_and_other_layers_come_back():
    tensors = [codes(w) for w in WEIGHTS]
    assert delta_bytes(model(tensors), model(tensors[:2], "text " * 30)) < 300
    assert delta_bytes(model(tensors[:2]), model(tensors)) < 1.01 * 3 * tensors[0].nbytes
    assert delta_bytes(model([]), model(tensors[:1])) <= 1.01 * tensors[0].nbytes
    assert delta_bytes(model(tensors, "a" * 90_000), model(tensors, "b" + "a" * 90_000)) < 400


@settings(max_examples=60, deadline=None)
@given(
    before=st.binary(max_size=2000),
    after=st.binary(max_size=2000),
    kind=st.sampled_from(["unknown", "structure"]),
    same=st.booleans(),
)
def test_any_two_files_have_a_delta(before, after, kind, same):
    after = (before + after)[: len(before)] if same else after
    parts = [[Segment(0, len(d), kind)] if d else [] for d in (after, before)]
    stream = encode_delta(after, parts[0], before, parts[1]).data
    assert b"".join(decode_stream([stream], len(after), base=Bytes(before))) == after


@settings(max_examples=40, deadline=None)
@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_damaged_delta_gives_other_bytes_or_a_format_error(at, bit):
    damaged = bytearray(DELTA)
    damaged[at % len(damaged)] ^= 1 << bit
    try:
        content = b"".join(decode_stream([bytes(damaged)], len(AFTER), base=Bytes(BEFORE)))
    except FormatError:
        return
    assert len(content) == len(AFTER)


BEFORE = model([codes(WEIGHTS[0]), np.arange(100.0)], "before")
AFTER = model([codes(WEIGHTS[0] + 1e-4), np.arange(100.0)], "after")
DELTA = encode_delta(
    AFTER,
    segments("m.onnx", {"m.onnx": AFTER}),
    BEFORE,
    segments("m.onnx", {"m.onnx": BEFORE}),
).data


def test_a_delta_without_its_base_is_a_format_error():
    with pytest.raises(FormatError, match="the file it starts from is not here"):
        list(decode_stream([DELTA], len(AFTER)))


# From a package with a delta to a version on a device


@pytest.fixture
def versions(tmp_path):
    """Version 1, and version 2 with a delta from it."""
    paths = []
    bases = []
    for version, data in (("1", BEFORE), ("2", AFTER)):
        folder = tmp_path / version
        folder.mkdir()
        paths.append(make_package(folder, data=data, model=MODEL, bases=bases, version=version))
        bases = [open_package(paths[-1]).as_base()]
    return [open_package(path) for path in paths]


def fetch(store, package):
    """What a device does: chooses, fetches, installs. Returns the bytes fetched."""
    wires = {chunk.sha256: wire for chunk, wire in package.wire_chunks()}
    fetched = 0
    for chunk in distinct_chunks(store.cheapest(package.manifest).files):
        if not store.chunks.has(chunk):
            store.chunks.put(chunk, wires[chunk.sha256])
            fetched += chunk.wire_bytes
    store.switch(store.install(package.manifest_bytes))
    assert store.current.model.read_bytes() == package.read_file(MODEL)
    return fetched


def test_a_device_with_the_base_fetches_the_delta(versions, tmp_path):
    store = Store(tmp_path / "store")
    first, second = versions
    whole = fetch(store, first)
    assert fetch(store, second) < 0.3 * whole
    assert {c.sha256 for c in second.manifest.file(MODEL).deltas[0].chunks} <= set(
        packed(tmp_path / "store" / "chunks")
    )


def test_a_device_with_nothing_fetches_the_file(versions, tmp_path):
    second = versions[1]
    assert fetch(Store(tmp_path / "store"), second) == second.manifest.sizes.wire_bytes
    everything = sum(chunk.wire_bytes for chunk in all_chunks(second.manifest.files))
    assert second.manifest.sizes.wire_bytes < everything


def test_a_base_that_was_damaged_on_the_disk_is_not_built_upon(versions, tmp_path):
    store = Store(tmp_path / "store")
    whole = fetch(store, versions[0])
    path = store.current.model
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert fetch(store, versions[1]) > 0.9 * whole


def test_a_delta_that_leads_elsewhere_is_refused(versions, tmp_path):
    store = Store(tmp_path / "store")
    fetch(store, versions[0])
    manifest = versions[1].manifest_bytes.replace(sha256_hex(AFTER).encode(), b"0" * 64)
    for chunk, wire in versions[1].wire_chunks():
        store.chunks.put(chunk, wire)
    with pytest.raises(IntegrityError, match="has the SHA-256"):
        store.install(manifest)


def test_versions_that_share_nothing_have_no_delta(tmp_path):
    noise = [np.random.default_rng(n).bytes(50_000) for n in (1, 2)]
    first = open_package(make_package(tmp_path, model=MODEL, data=noise[0]))
    second = make_package(
        tmp_path, model=MODEL, data=noise[1], bases=[first.as_base()], version="2"
    )
    assert open_package(second).manifest.file(MODEL).deltas == ()


def test_newest_versions_and_those_that_run_are_bases(tmp_path):
    workspace = Workspace.create(tmp_path / "workspace")

    def make(name, version, day, *, released=True, bases=(), data=b"x" * 1000):
        created = f"2026-11-{day:02}T00:00:00Z"
        path = make_package(
            workspace.packages,
            name=name,
            version=version,
            created=created,
            bases=bases,
            data=data,
        )
        package = open_package(path)
        if released:
            workspace.repository().add_target(package.manifest.target_name, package.manifest_bytes)
        return package

    def versions(version="9", day=9):
        found = bases_for(
            workspace, name="demo", version=version, created=f"2026-11-{day:02}T00:00:00Z"
        )
        return [package.manifest.version for package in found]

    def report(device, counter, active):
        store = ReportStore(workspace.database_url)
        store.add(make_report(counter, id=f"{device}-{counter}", device=device, active=active))
        store.close()

    first = make("demo", "1", 1, data=RANDOM.bytes(1000))
    for day in range(2, 8):
        make("demo", str(day), day)
    make("demo-other", "1", 3)
    make("demo", "unreleased", 3, released=False)
    assert versions() == ["7", "6", "5", "4"]
    assert versions("8", 4) == ["4", "3", "2", "1"], "none that was compressed later"
    report("old", 1, "demo-2.json")
    report("old", 2, "demo-1.json")
    report("other", 1, "demo-other-1.json")
    report("empty", 1, None)
    assert versions() == ["7", "6", "5", "4", "1"]
    data = first.read_file("model.tflite")
    make("demo", "9", 9, bases=[first.as_base()], data=data[:500] + b"!" + data[501:])
    report("old", 3, "demo-9.json")
    assert versions() == ["1"], "a released version keeps the bases it was released with"


def test_no_more_versions_are_bases_than_there_may_be():
    targets = [f"demo-{number}.json" for number in range(30, 0, -1)]
    assert choose(targets, {"demo-1.json", "demo-29.json", "gone.json"}) == [0, 1, 2, 3, 29]
    assert choose(targets, set(targets)) == list(range(8))
    assert choose(targets[:2], set()) == [0, 1]
