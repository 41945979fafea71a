"""The gate: a file that does something else is not let out, and nothing of it stays behind."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from support.graphs import CLASSES, GRAPHS, GraphBuilder
from support.quant_graphs import GRAPHS as TRAINED_LIKE
from trimtab.compress.affine import Range
from trimtab.compress.calibrate import calibrate
from trimtab.compress.placement import quantized_groups
from trimtab.compress.quantize import quantize
from trimtab.errors import ExportError, UnsupportedOperatorError
from trimtab.graph.clean import clean
from trimtab.targets import export
from trimtab.targets.gate import INT8_COSINE, check_quantization, compare, relative_limit
from trimtab.targets.writing import WriteRequest, Written

TARGETS = [
    "onnxruntime",
    "openvino",
    pytest.param("tflite", marks=pytest.mark.slow),
]


@pytest.fixture
def model() -> ir.Model:
    return clean(GRAPHS["residual"]())


@pytest.fixture
def samples() -> tuple[np.ndarray, ...]:
    return (np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(np.float32),)


def with_changed_weight(model: ir.Model, factor: float) -> ir.Model:
    """A model of the same shapes whose last layer is scaled."""
    changed = model.clone()
    value = next(node for node in changed.graph if node.op_type == "Gemm").inputs[1]
    array = value.const_value.numpy() * np.float32(factor)
    value.const_value = ir.tensor(array, name=value.name)
    return changed


SUFFIXES = {"tflite": ".tflite", "onnxruntime": ".onnx", "openvino": ".xml"}


def sabotage(monkeypatch: pytest.MonkeyPatch, target: str, other: ir.Model) -> None:
    """Makes a target's converter write another model than it was given, as a faulty one does."""
    module = importlib.import_module("trimtab.targets.export")
    write = module.WRITERS[target]
    monkeypatch.setitem(
        module.WRITERS, target, lambda _, folder, request: write(other, folder, request)
    )


@pytest.mark.parametrize("target", TARGETS)
def test_file_that_does_what_the_graph_does_is_let_out(target, model, samples, tmp_path):
    request = WriteRequest(stem="cnn")
    exported = export(model, target, tmp_path / "new", samples=samples, request=request)
    assert exported.path == tmp_path / "new" / f"cnn{SUFFIXES[target]}"
    assert sorted(exported.files) == sorted((tmp_path / "new").iterdir())
    assert exported.file_bytes == sum(path.stat().st_size for path in exported.files)
    assert exported.comparison.samples == 8
    assert exported.comparison.agreement == 1
    assert exported.comparison.relative_error < relative_limit(quantized=False)


@pytest.mark.parametrize("target", TARGETS)
def test_file_that_computes_something_else_is_refused(
    target, model, samples, tmp_path, monkeypatch
):
    sabotage(monkeypatch, target, with_changed_weight(model, 1.5))
    message = r"differ by up to [\d.e+-]+, which is \d+\.\d\d% of the largest; 0\.10% is accepted"
    with pytest.raises(ExportError, match=message):
        export(model, target, tmp_path, samples=samples)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", TARGETS)
def test_outputs_that_are_not_numbers_are_refused(target, model, samples, tmp_path, monkeypatch):
    sabotage(monkeypatch, target, with_changed_weight(model, np.nan))
    with pytest.raises(ExportError, match="outputs that are not finite on 8 samples"):
        export(model, target, tmp_path, samples=samples)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", TARGETS)
def test_model_that_itself_gives_no_numbers_is_not_let_out(target, model, samples, tmp_path):
    with pytest.raises(ExportError, match="the model itself gives outputs that are not finite"):
        export(with_changed_weight(model, np.nan), target, tmp_path, samples=samples)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", TARGETS)
def test_outputs_of_another_shape_are_refused(target, model, samples, tmp_path, monkeypatch):
    other = model.clone()
    pooled = next(node for node in other.graph if node.op_type == "Flatten").outputs[0]
    other.graph.outputs[0] = pooled
    sabotage(monkeypatch, target, other)
    with pytest.raises(ExportError, match=r"outputs of the shapes \[\(8, 12\)\], the model .*8, 5"):
        export(model, target, tmp_path, samples=samples)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", TARGETS)
def test_file_that_does_not_load_is_refused(target, model, samples, tmp_path, monkeypatch):
    def write_nonsense(model: ir.Model, folder: Path, request: WriteRequest) -> Written:
        path = folder / f"{request.stem}{SUFFIXES[target]}"
        path.write_bytes(b"nonsense")
        return Written(path=path, weight_bytes=0)

    module = importlib.import_module("trimtab.targets.export")
    monkeypatch.setitem(module.WRITERS, target, write_nonsense)
    with pytest.raises(
        ExportError, match=f"model{SUFFIXES[target]} for {target} does not load or run"
    ):
        export(model, target, tmp_path, samples=samples)
    assert list(tmp_path.iterdir()) == []


def test_earlier_export_survives_a_refused_one(model, samples, tmp_path, monkeypatch):
    first = export(model, "onnxruntime", tmp_path, samples=samples)
    content = first.path.read_bytes()
    sabotage(monkeypatch, "onnxruntime", with_changed_weight(model, 2))
    with pytest.raises(ExportError):
        export(model, "onnxruntime", tmp_path, samples=samples)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [content]


@pytest.mark.slow
def test_operators_without_a_kernel_are_refused_before_anything_is_written(samples, tmp_path):
    b = GraphBuilder(8, 8)
    column = b.op("Unsqueeze", b.op("Det", b.op("Bernoulli", "x")), b.constant([1]))
    model = clean(b.build(b.op("Concat", *[column] * CLASSES, axis=1)))
    with pytest.raises(UnsupportedOperatorError, match=r"Bernoulli \(1x\), Det \(1x\)"):
        export(model, "tflite", tmp_path, samples=(samples[0][:, 0],))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["residual", "one_dimensional"])
def test_int8_graph_is_let_out_for_every_target(target, name, tmp_path):
    from types import SimpleNamespace

    from trimtab.compress.quantize import QuantizeInt8, apply

    model = clean(TRAINED_LIKE[name]())
    shape = [dim for dim in model.graph.inputs[0].shape if isinstance(dim, int)]
    data = (np.random.default_rng(0).normal(size=(64, *shape)).astype(np.float32),)
    dataset = SimpleNamespace(calibration=lambda count, seed: data)
    quantized = apply(model, QuantizeInt8(calibration_samples=64), SimpleNamespace(
        dataset=dataset, seed=0, log=print
    ))  # fmt: skip
    exported = export(quantized, target, tmp_path, samples=data)
    assert exported.comparison.cosine > 0.99


def test_worst_output_of_several_counts():
    expected = np.eye(4, dtype=np.float32)
    assert compare(expected, expected).cosine == pytest.approx(1)
    wrong = expected.copy()
    wrong[3] = wrong[3, ::-1]
    result = compare(wrong, expected)
    assert (result.max_abs_error, result.cosine, result.agreement) == (1, 0, 0.75)


def test_all_zero_outputs_have_no_direction():
    zeros = np.zeros((2, 3), np.float32)
    result = compare(zeros, zeros)
    assert (result.relative_error, result.cosine, result.agreement) == (0, None, 1)


def test_quantization_with_a_wrong_range_is_refused(model, samples):
    """Calibrated on data a thousand times too small, every activation saturates."""
    ranges = _calibrated(model, samples[0] * 1e-3)
    with pytest.raises(ExportError, match=r"explain \d+% of the variance of the float"):
        check_quantization(quantize(model, ranges), model, samples)


def test_quantization_done_well_passes(model, samples):
    ranges = _calibrated(model, samples[0])
    check_quantization(quantize(model, ranges), model, samples)


@pytest.mark.parametrize(("factor", "let_out"), [(13.0, True), (40.0, False)])
def test_file_as_near_to_the_float_model_as_its_graph_is_let_out(
    factor, let_out, tmp_path, monkeypatch
):
    """Both round so coarsely that they are far from each other; one is no worse than the other."""
    model = clean(TRAINED_LIKE["residual"]())
    shape = [dim for dim in model.graph.inputs[0].shape if isinstance(dim, int)]
    samples = (np.random.default_rng(0).normal(size=(8, *shape)).astype(np.float32),)
    ranges = _calibrated(model, samples[0])
    coarse, other = (
        quantize(model, {name: Range(r.low * k, r.high * k) for name, r in ranges.items()})
        for k in (10.0, factor)
    )
    sabotage(monkeypatch, "onnxruntime", other)
    if let_out:
        result = export(coarse, "onnxruntime", tmp_path, samples=samples).comparison
        assert result.relative_error > relative_limit(quantized=True) or result.cosine < INT8_COSINE
    else:
        with pytest.raises(ExportError, match="does not do what the model does"):
            export(coarse, "onnxruntime", tmp_path, samples=samples)


def _calibrated(model: ir.Model, sample: np.ndarray) -> dict[str, Range]:
    names = [name for group in quantized_groups(model.graph) for name in group]
    return calibrate(model, (sample,), names, method="minmax")


@pytest.mark.slow
def test_weights_alone_in_few_bits_take_as_few_bytes_in_tflite(tmp_path):
    """Codes of the graph, in both files."""
    from support.techniques import context
    from trimtab.compress.quantize_weights import QuantizeWeights, apply

    model = clean(TRAINED_LIKE["residual"]())
    small = apply(model, QuantizeWeights(bits=8), context(model))
    shape = [dim for dim in model.graph.inputs[0].shape if isinstance(dim, int)]
    samples = (np.random.default_rng(0).normal(size=(4, *shape)).astype(np.float32),)
    sizes = {
        target: export(small, target, tmp_path / target, samples=samples).weight_bytes
        for target in ("onnxruntime", "tflite")
    }
    assert sizes["tflite"] <= sizes["onnxruntime"]


@pytest.mark.slow
def test_tflite_takes_free_sizes_from_samples_that_are_real_ones(samples, tmp_path):
    model = clean(GRAPHS["plain"]())
    model.graph.inputs[0].shape = ir.Shape(["batch", 3, "height", "width"])
    with pytest.raises(ExportError, match="free dimensions"):
        export(model, "tflite", tmp_path, samples=samples)
    assert export(model, "tflite", tmp_path, samples=samples, sized=True).comparison.agreement == 1
    assert model.graph.inputs[0].shape[2] != 8, "the graph itself stays free"
