"""`trimtab export`: any model, float or quantized, for the runtimes that a profile allows."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from support import graphs
from support.stored_graphs import Stored
from trimtab.cli.app import main
from trimtab.graph.clean import clean
from trimtab.workflow.compressed import read_compressed

CALLER = 2


@pytest.fixture
def trimtab(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["trimtab", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capfd.readouterr()

    return run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.onnx"
    ir.save(clean(graphs.plain()), path)
    return path


@pytest.fixture
def somebody_elses(tmp_path: Path) -> Path:
    """An int8 model in QDQ form, by ONNX Runtime's own tool."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            rng = np.random.default_rng(0)
            self.left = [rng.normal(size=(1, 3, 8, 8)).astype(np.float32) for _ in range(8)]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return {"x": self.left.pop()} if self.left else None

    plain, path = tmp_path / "float.onnx", tmp_path / "qdq.onnx"
    ir.save(clean(graphs.plain()), plain)
    quantize_static(plain, path, Reader(), per_channel=True)
    return path


def _unknown_operators(path: Path) -> Path:
    b = graphs.GraphBuilder(8, 8)
    column = b.op("Unsqueeze", b.op("Det", b.op("Bernoulli", "x")), b.constant([1]))
    ir.save(clean(b.build(b.op("Concat", *[column] * graphs.CLASSES, axis=1))), path)
    return path


def test_a_float_model_for_two_runtimes_and_a_package_of_it(trimtab, model, tmp_path):
    out = tmp_path / "out"
    code, text, err = trimtab("export", model, "--target", "openvino,onnxruntime", "-o", out)
    assert code == 0, err
    assert "accuracy was not checked: there is no data" in text
    for target in ("openvino", "onnxruntime"):
        written = read_compressed(out / target)
        assert (written.steps, written.lineage.recipe) == ((), ())
        assert written.comparison.agreement == 1
        assert {path.name for path in (out / target).iterdir()} > set(written.files)
    trimtab("init", tmp_path / "w")
    code, _, err = trimtab(
        "package", out / "openvino", "--name", "tiny", "--version", "1", "-w", tmp_path / "w"
    )
    assert code == 0, err


def test_a_quantized_model_of_another_tool_with_data(trimtab, somebody_elses, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x_train=x, y_train=np.arange(40) % graphs.CLASSES)
    code, text, err = trimtab(
        "export", somebody_elses, "--target", "onnxruntime", "-o", tmp_path / "out",
        "--data", tmp_path / "data.npz", "--json",
    )  # fmt: skip
    assert code == 0, err
    (found,) = json.loads(text)
    assert found["evaluation"]["agreement"] == 1
    file = ir.load(tmp_path / "out" / "onnxruntime" / "model.onnx")
    assert any(node.op_type == "QuantizeLinear" for node in file.graph)


def test_the_form_of_minimal_builds(trimtab, model, tmp_path):
    out = tmp_path / "out"
    code, _, err = trimtab("export", model, "--target", "onnxruntime", "--form", "ort", "-o", out)
    assert code == 0, err
    written = read_compressed(out / "onnxruntime")
    assert written.model == "model.ort"
    assert written.files == ("model.ort", "model.required_operators_and_types.config")
    assert "Conv" in (out / "onnxruntime" / written.files[1]).read_text()
    assert written.wire_bytes > 0


def test_stored_weights_of_a_file_for_minimal_builds(tmp_path):
    from trimtab.targets import export
    from trimtab.targets.writing import WriteRequest

    b = Stored(64)
    model = b.build(b.op("MatMul", b.x, b.weight(64, 96), shape=["batch", 96]))
    samples = (np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32),)
    request = WriteRequest(form="ort")
    exported = export(model, "onnxruntime", tmp_path, samples=samples, request=request)
    assert exported.path.suffix == ".ort"


def test_a_target_that_the_profile_forbids(trimtab, model, tmp_path):
    code, _, err = trimtab(
        "export", model, "--profile", "raspberry-pi-zero-2w", "--target", "openvino,tflite",
        "-o", tmp_path / "out",
    )  # fmt: skip
    assert code == CALLER
    assert "the profile does not have 'openvino'; it has" in err


def test_operators_that_a_target_lacks_are_all_named_and_the_others_are_written(trimtab, tmp_path):
    path, out = _unknown_operators(tmp_path / "odd.onnx"), tmp_path / "out"
    code, _, err = trimtab("export", path, "--target", "onnxruntime,openvino", "-o", out)
    assert code == CALLER
    assert "there is no openvino file: OpenVINO has no Bernoulli, Det" in err
    assert "leave the target out" in err
    assert (out / "onnxruntime" / "model.onnx").is_file()
    assert not (out / "openvino" / "compressed.json").exists()
