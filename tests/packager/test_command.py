"""The command line as a user meets it: arguments in, an exit code and two streams out."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from support import graphs
from trimtab.cli.app import main

CALLER, PACKAGE, NETWORK = 2, 3, 5


@dataclass(frozen=True)
class Done:
    """What a run of the command left behind."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def trimtab(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """Runs the command in this process: its imports are paid once."""

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["trimtab", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return Done(code, *capfd.readouterr())

    return run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.onnx"
    ir.save(graphs.plain(), path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return _data(tmp_path / "data.npz")


def _data(path: Path, **changes: np.ndarray) -> Path:
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.normal(size=(40, 3, 8, 8)).astype(np.float32),
        "y_train": np.arange(40) % graphs.CLASSES,
        "x_test": rng.normal(size=(20, 3, 8, 8)).astype(np.float32),
        "y_test": np.arange(20) % graphs.CLASSES,
    }
    np.savez(path, **(arrays | changes))
    return path


def test_help_names_every_command(trimtab):
    done = trimtab("--help")
    assert done.returncode == 0
    for command in ("inspect", "compress", "package", "publish", "report", "optimize", "serve"):
        assert command in done.stdout


def test_it_is_a_program():
    command = [sys.executable, "-m", "trimtab", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("trimtab 0.")


def test_inspect_counts_a_model(trimtab, model: Path):
    shown = json.loads(trimtab("inspect", model, "--json").stdout)
    assert shown["inputs"] == [{"name": "x", "shape": [None, 3, 8, 8], "dtype": "float32"}]
    assert [layer["operator"] for layer in shown["count"]["layers"]] == ["Conv", "Conv", "Gemm"]
    # 3 -> 8 and 8 -> 12 channels of 8 x 8 with kernels 3 x 3, and 12 -> 5 classes
    macs = 64 * 9 * (3 * 8 + 8 * 12) + 12 * graphs.CLASSES
    assert shown["count"]["macs"] == macs
    assert shown["outputs"][0]["shape"] == [None, graphs.CLASSES]
    assert (shown["format"], shown["opset"], shown["quantized"]) == ("ONNX", 17, False)
    assert shown["operators"]["Conv"] == 2
    assert shown["control_flow"] == []


def test_inspect_shows_the_same_to_people(trimtab, model: Path):
    shown = trimtab("inspect", model).stdout
    for part in ("ONNX, as ONNX opset 17", "operators: 2 Conv", "input  x float32 ?x3x8x8", "Gemm"):
        assert part in shown


def test_profiles_lists_this_machine(trimtab):
    ids = [profile["id"] for profile in json.loads(trimtab("profiles", "--json").stdout)]
    assert "generic-x86-64" in ids
    assert "generic-aarch64" in ids


def test_compress_package_and_change_one_byte(trimtab, model: Path, data: Path, tmp_path: Path):
    """By hand up to the broker: what is written is signed, and a changed byte is found."""
    out, workspace = tmp_path / "out", tmp_path / "workspace"
    done = trimtab(
        "compress", model, "--data", data, "--target", "onnxruntime",
        "--profile", "generic-x86-64", "-o", out, "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (compressed,) = json.loads(done.stdout)
    assert compressed["lineage"]["recipe"][0]["quantize_int8"]["calibration_samples"] == 256
    assert compressed["evaluation"]["samples"] == 20
    assert compressed["file_bytes"] == (out / "onnxruntime" / "model.onnx").stat().st_size

    assert trimtab("init", workspace).returncode == 0
    packed = trimtab(
        "package", out / "onnxruntime", "--name", "tiny", "--version", "1", "-w", workspace,
        "--json",
    )  # fmt: skip
    assert packed.returncode == 0, packed.stderr
    path = Path(json.loads(packed.stdout)["package"])

    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    refused = trimtab("publish", "tiny-1", "-w", workspace, "-b", "mqtt://127.0.0.1:9")
    assert refused.returncode == PACKAGE
    assert _one_line(refused).startswith("trimtab: error: tiny-1.trimtab: chunk ")


def test_a_released_version_is_never_changed(trimtab, model: Path, data: Path, tmp_path: Path):
    workspace = tmp_path / "workspace"
    assert trimtab("init", workspace).returncode == 0
    for seed, code in ((0, 0), (1, CALLER)):
        out = tmp_path / f"out{seed}"
        options = ("--data", data, "--target", "onnxruntime", "--seed", seed)
        done = trimtab("compress", model, *options, "--profile", "generic-x86-64", "-o", out)
        assert done.returncode == 0, done.stderr
        packed = trimtab(
            "package", out / "onnxruntime", "--name", "t", "--version", "1", "-w", workspace
        )
        assert packed.returncode == code, packed.stderr
    assert "released" in _one_line(packed)


BAD_INPUTS = {
    "no such model": (("inspect", "{tmp}/none.onnx"), "is no file"),
    "text that is no model": (("inspect", "{tmp}/text.onnx"), "is not a valid ONNX model"),
    "unknown kind of model": (("inspect", "{tmp}/model.pt"), "torch.export.save"),
    "unknown profile": (
        ("compress", "{model}", "--profile", "raspbery-pi-4", "-o", "{tmp}/o"),
        "raspberry-pi-4b",
    ),
    "target that the profile lacks": (
        ("compress", "{model}", "--profile", "raspberry-pi-zero-2w", "--target", "openvino",
         "-o", "{tmp}/o"),
        "does not have 'openvino'",
    ),
    "data of the wrong shape": (
        ("compress", "{model}", "--data", "{tmp}/shape.npz", "-o", "{tmp}/o"),
        "x_test must have the shape [samples, 3, 8, 8], not [20, 3, 9, 8]",
    ),
    "labels that the model has no classes for": (
        ("compress", "{model}", "--data", "{tmp}/labels.npz", "-o", "{tmp}/o"),
        f"labels outside 0 to {graphs.CLASSES - 1}",
    ),
    "recipe with a misspelt technique": (
        ("compress", "{model}", "--data", "{data}", "--recipe", "{tmp}/bad.yaml", "-o", "{tmp}/o"),
        "did you mean `prune_channels`",
    ),
    "a recipe and a preset": (
        ("compress", "{model}", "--recipe", "{tmp}/bad.yaml", "--preset", "low", "-o", "{tmp}/o"),
        "--recipe and --preset exclude each other",
    ),
    "unknown preset": (
        ("compress", "{model}", "--preset", "tiny", "-o", "{tmp}/o"),
        "unknown preset 'tiny'; known: low, medium, high, extreme, deep_compression",
    ),
    "preset that needs data": (
        ("compress", "{model}", "--preset", "extreme", "-o", "{tmp}/o"),
        "preset extreme needs data",
    ),
    "operators that TFLite needs the engine for": (
        ("compress", "{tmp}/odd.onnx", "--target", "tflite", "--profile", "generic-x86-64",
         "-o", "{tmp}/o"),
        "Bernoulli (1x), Det (1x)",
    ),
    "no workspace": (("package", "{tmp}", "--name", "a", "--version", "1", "-w", "{tmp}/w"),
                     "trimtab init"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_input_is_one_line_and_an_exit_code(
    trimtab, name: str, model: Path, data: Path, tmp_path: Path
):
    (tmp_path / "text.onnx").write_text("not a model at all")
    (tmp_path / "model.pt").write_bytes(b"\x80\x02")
    (tmp_path / "bad.yaml").write_text("steps: [prune_chanels: {macs: 0.5}]")
    _data(tmp_path / "shape.npz", x_test=np.zeros((20, 3, 9, 8), np.float32))
    _data(tmp_path / "labels.npz", y_test=np.full(20, 99))
    ir.save(_odd_model(), tmp_path / "odd.onnx")
    arguments, expected = BAD_INPUTS[name]
    done = trimtab(*(a.format(tmp=tmp_path, model=model, data=data) for a in arguments))
    assert done.returncode == CALLER
    assert expected in _one_line(done)


def test_a_broker_that_is_not_there(trimtab, model: Path, data: Path, tmp_path: Path):
    workspace = tmp_path / "workspace"
    trimtab("init", workspace)
    done = trimtab(
        "optimize", model, "--data", data, "--device", "d", "-o", tmp_path / "o",
        "-w", workspace, "-b", "mqtt://127.0.0.1:9",
    )  # fmt: skip
    assert done.returncode == NETWORK
    assert "127.0.0.1:9" in _one_line(done)


def test_errors_in_json(trimtab, tmp_path: Path):
    done = trimtab("inspect", tmp_path / "none.onnx", "--json")
    assert json.loads(done.stdout)["error"]["reason"] == "model"


def _one_line(done: Done) -> str:
    """Returns the error, which is the last and only line of its kind, and no traceback."""
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("trimtab: error: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def _odd_model() -> ir.Model:
    """A model with two operators that no part of Trimtab knows."""
    b = graphs.GraphBuilder(4, 4)
    column = b.op("Unsqueeze", b.op("Det", b.op("Bernoulli", "x")), b.constant([1]))
    return b.build(b.op("Concat", *[column] * graphs.CLASSES, axis=1))
