"""Session options on their way into a manifest: those of the file, and those of the device."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from support.packages import golden
from trimtab.errors import ProfileError
from trimtab.package.golden import encode_golden
from trimtab.targets import Comparison
from trimtab.workflow.compressed import COMPRESSED_FILE, GOLDEN_FILE, Compressed
from trimtab.workflow.release import release
from trimtab.workflow.workspace import Workspace
from trimtab_agent.contract import codec
from trimtab_agent.contract.manifest import Counts, Lineage, TensorSpec

BOARD = """
id: board
title: A board
architecture: aarch64
channel_multiple: {value: 8, source: a choice, confidence: assumed}
runtimes:
  - name: onnxruntime
    dtypes: [float32]
    options: {provider: CUDAExecutionProvider, provider.device_id: 1}
  - {name: openvino, dtypes: [float32], options: {PERFORMANCE_HINT: THROUGHPUT}}
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.create(tmp_path / "workspace")


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "board.yaml"
    path.write_text(BOARD)
    return path


def write_folder(folder: Path, profile: Path, **options: object) -> Path:
    """What `trimtab compress` leaves."""
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"a model")
    samples = golden()
    (folder / GOLDEN_FILE).write_bytes(encode_golden(samples))
    compressed = Compressed(
        created="2026-11-22T00:00:00Z",
        profile=str(profile),
        target="onnxruntime",
        model="model.onnx",
        files=("model.onnx",),
        file_bytes=7,
        weight_bytes=7,
        wire_bytes=7,
        counts=Counts(macs=1, parameters=1, original_macs=1, original_parameters=1),
        inputs=(TensorSpec(name="x", shape=(None, 4), dtype="float32"),),
        outputs=(TensorSpec(name="y", shape=(None, 2), dtype="float32"),),
        threads=1,
        options=dict(options),
        runtime_version="1",
        comparison=Comparison(samples=1, max_abs_error=0, relative_error=0, cosine=1, agreement=1),
        evaluation=None,
        golden_max_abs_error=samples.max_abs_error,
        lineage=Lineage(
            source_name="model.onnx", source_sha256="0" * 64, recipe=(), seed=0, tools={}
        ),
        steps=(),
    )
    (folder / COMPRESSED_FILE).write_bytes(codec.encode(compressed))
    return folder


def released_options(folder: Path, workspace: Workspace) -> dict[str, object]:
    return dict(release(folder, workspace, name="demo", version="1").manifest.runtime.options)


def test_the_files_options_and_the_devices_come_together(tmp_path, workspace, profile):
    needs = {"session.qdq_matmulnbits_accuracy_level": 4}
    assert released_options(write_folder(tmp_path / "out", profile, **needs), workspace) == {
        "session.qdq_matmulnbits_accuracy_level": 4,
        "provider": "CUDAExecutionProvider",
        "provider.device_id": 1,
    }


def test_the_device_has_the_last_word(tmp_path, workspace, profile):
    folder = write_folder(tmp_path / "out", profile, provider="CPUExecutionProvider")
    assert released_options(folder, workspace)["provider"] == "CUDAExecutionProvider"


def test_a_device_without_wishes_adds_nothing(tmp_path, workspace):
    folder = write_folder(tmp_path / "out", Path("generic-x86-64"))
    assert released_options(folder, workspace) == {}


def test_a_profile_that_is_gone(tmp_path, workspace, profile):
    folder = write_folder(tmp_path / "out", profile)
    profile.unlink()
    with pytest.raises(ProfileError, match=r"board\.yaml cannot be read"):
        release(folder, workspace, name="demo", version="1")


def test_a_spec_without_quantization_is_written_as_before():
    spec = TensorSpec(name="x", shape=(None, 4), dtype="float32")
    assert codec.encode(spec) == b'{"name":"x","shape":[null,4],"dtype":"float32"}'
    assert msgspec.json.decode(codec.encode(spec), type=TensorSpec) == spec
