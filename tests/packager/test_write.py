"""What is written for a target: compared with the original, timed, and refused where it guesses."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from support.graphs import GRAPHS
from support.techniques import context
from trimtab.compress.dequantize import is_quantized
from trimtab.compress.quantize import QuantizeInt8
from trimtab.compress.quantize import apply as quantize
from trimtab.compress.quantize_weights import QuantizeWeights, apply
from trimtab.compress.recipe import Recipe
from trimtab.errors import ExportError, RecipeError
from trimtab.graph.clean import clean
from trimtab.graph.run import run_graph
from trimtab.hardware import load_profile
from trimtab.workflow.compressed import read_compressed
from trimtab.workflow.source import Source, load_source
from trimtab.workflow.write import Applied, TargetWriter

SAMPLES = 120


@pytest.fixture
def source(tmp_path: Path) -> Source:
    model = clean(GRAPHS["perceptron"]())
    path = tmp_path / "model.onnx"
    ir.save(model, path)
    shape = [SAMPLES, *list(model.graph.inputs[0].shape or [])[1:]]
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    (scores,) = run_graph(model, (x,))
    y = scores.argmax(axis=1)
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    return load_source(path, tmp_path / "data.npz", "classification")


def writer(source: Source, *, compare_speed: bool = True) -> TargetWriter:
    profile = load_profile("generic-x86-64")
    return TargetWriter(source, profile, seed=0, log=lambda _: None, compare_speed=compare_speed)


def applied(model: ir.Model) -> Applied:
    return Applied(model=model, recipe=Recipe(steps=()))


def test_quantized_file_is_compared_with_the_original_and_timed_beside_its_twin(source, tmp_path):
    quantized = apply(source.model, QuantizeWeights(bits=8), context(source.model))
    result = writer(source).write(applied(quantized), "onnxruntime", tmp_path / "out")
    assert result.fidelity is not None
    assert 0 < result.fidelity.relative_error < 0.1
    assert result.fidelity.cosine > 0.99
    assert result.comparison.relative_error < result.fidelity.relative_error
    assert result.speed is not None
    assert result.speed.latency_us > 0 < result.speed.float_latency_us
    low, high = result.speed.ratio_interval
    assert low <= result.speed.ratio <= high
    assert read_compressed(tmp_path / "out") == result


def test_operators_that_stay_float_in_an_int8_file_are_listed_with_their_reasons(source, tmp_path):
    quantized = quantize(source.model, QuantizeInt8(), context(source.model, source.dataset))
    result = writer(source).write(applied(quantized), "onnxruntime", tmp_path)
    assert result.float_operators
    assert all(each.reason for each in result.float_operators)
    assert not {"QLinearMatMul", "QGemm"} & {each.operator for each in result.float_operators}


def test_float_file_has_no_twin(source, tmp_path):
    result = writer(source).write(applied(source.model), "onnxruntime", tmp_path)
    assert result.speed is None
    assert result.float_operators is None
    assert result.fidelity.agreement == 1


def test_search_that_measures_on_a_device_does_not_time_here(source, tmp_path):
    quantized = apply(source.model, QuantizeWeights(bits=8), context(source.model))
    quiet = writer(source, compare_speed=False)
    assert quiet.write(applied(quantized), "onnxruntime", tmp_path).speed is None


def test_quantized_file_whose_float_twin_is_refused_is_written_all_the_same(
    source, tmp_path, monkeypatch
):
    module = importlib.import_module("trimtab.targets.export")
    write = module.WRITERS["onnxruntime"]

    def refuse_floats(model, folder, request):
        if not is_quantized(model):
            raise ExportError("no floats here")
        return write(model, folder, request)

    monkeypatch.setitem(module.WRITERS, "onnxruntime", refuse_floats)
    quantized = apply(source.model, QuantizeWeights(bits=8), context(source.model))
    result = writer(source).write(applied(quantized), "onnxruntime", tmp_path)
    assert result.speed is None
    assert read_compressed(tmp_path) == result


def test_model_at_chance_level_is_refused_and_leaves_nothing(source, tmp_path):
    guessing = source.model.clone()
    last = next(node for node in reversed(list(guessing.graph)) if node.op_type == "Gemm")
    weight = last.inputs[1]
    weight.const_value = ir.tensor(np.zeros_like(weight.const_value.numpy()), name=weight.name)
    with pytest.raises(ExportError, match=r"at chance level: top1 is .* the original 1\.000"):
        writer(source).write(applied(guessing), "onnxruntime", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_target_that_the_profile_lacks_is_refused(source, tmp_path):
    phone = load_profile("raspberry-pi-zero-2w")
    limited = TargetWriter(source, phone, seed=0, log=lambda _: None)
    with pytest.raises(RecipeError, match="has no runtime 'openvino'; it has tflite"):
        limited.write(applied(source.model), "openvino", tmp_path)
