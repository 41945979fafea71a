"""Which steps a preset picks, and how small a trained model gets by them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir
import pytest

from support.graphs import GRAPHS, GraphBuilder
from support.techniques import context, small_dataset
from trimtab.compress.presets import FACTORS, PRESETS, preset
from trimtab.compress.recipe import Recipe, run_recipe
from trimtab.compress.weights import find_weights
from trimtab.errors import RecipeError
from trimtab.evaluate.data import Dataset, Split
from trimtab.graph.access import set_initializer
from trimtab.graph.clean import clean
from trimtab.graph.run import run_graph
from trimtab.hardware import load_profile
from trimtab.package.wire import wire_bytes
from trimtab.targets import export

PROFILE = load_profile("generic-x86-64")


def techniques(name: str, model: ir.Model, *, has_data: bool = True) -> list[str]:
    return [step.technique for step in pick(name, model, has_data=has_data).steps]


def pick(name: str, model: ir.Model, *, has_data: bool = True) -> Recipe:
    model = clean(model)
    return preset(name, model, PROFILE, dataset=small_dataset(model, 32) if has_data else None)


def large() -> ir.Model:
    """Large enough that weights and not names make up the file."""
    b = GraphBuilder(64)
    x = b.op("Relu", b.dense("x", 64, 400))
    x = b.op("Relu", b.dense(x, 400, 300))
    return b.build(b.dense(x, 300, 5))


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("graph", ["plain", "perceptron", "residual", "flattened"])
def test_every_preset_is_a_valid_recipe_for_any_model(name: str, graph: str) -> None:
    assert techniques(name, GRAPHS[graph]())


def test_smaller_ones_prune_more() -> None:
    sparsities = [
        sum(
            getattr(step.parameters, "sparsity", 0.0)
            for step in pick(name, large()).steps
            if step.technique == "prune_weights"
        )
        for name in ("low", "medium", "high")
    ]
    assert sparsities == sorted(sparsities)
    assert sparsities[0] == 0 < sparsities[2]


def test_deep_compression_prunes_shares_and_quantizes() -> None:
    wanted = ["prune_weights", "share_weights", "quantize_int8"]
    assert techniques("deep_compression", large()) == wanted


def test_no_int8_where_the_device_does_not_run_it() -> None:
    floats = tuple(
        msgspec.structs.replace(runtime, dtypes=("float32",)) for runtime in PROFILE.runtimes
    )
    profile = msgspec.structs.replace(PROFILE, runtimes=floats)
    model = clean(large())
    picked = preset("low", model, profile, dataset=small_dataset(model, 32))
    assert [step.technique for step in picked.steps] == ["quantize_weights"]


def test_int8_takes_tables_along() -> None:
    b = GraphBuilder(7)
    rows = b.op("Gather", b.weight(200, 60), b.op("Cast", "x", to=7))
    model = b.build(b.dense(b.op("ReduceMean", rows, axes=[1], keepdims=0), 60, 5))
    assert techniques("low", model) == ["quantize_int8"]


def test_no_channels_go_where_none_can() -> None:
    b = GraphBuilder(64)
    assert "prune_channels" not in techniques("extreme", b.build(b.dense("x", 64, 5)))
    assert "prune_channels" in techniques("extreme", large())


@pytest.mark.parametrize("name", ["extreme", "deep_compression"])
def test_says_that_data_is_missing(name: str) -> None:
    with pytest.raises(RecipeError, match=f"preset {name} needs data to train on"):
        techniques(name, large(), has_data=False)


def test_what_cannot_be_trained_gets_a_preset_without_training() -> None:
    model = clean(large())
    model.graph.inputs[0].shape = ir.Shape([1, 64])
    picked = preset("high", model, PROFILE, dataset=small_dataset(model, 32))
    assert {step.technique for step in picked.steps} <= {"prune_weights", "share_weights"}
    with pytest.raises(RecipeError, match=r"trains, and that is not possible: .* fixed batch of 1"):
        preset("extreme", model, PROFILE, dataset=small_dataset(model, 32))


def test_names_the_presets() -> None:
    with pytest.raises(RecipeError, match="unknown preset 'tiny'; known: low, medium, high"):
        techniques("tiny", large())


@pytest.mark.parametrize("name", ["low", "medium", "high"])
def test_reaches_its_size_without_data(name: str, tmp_path: Path) -> None:
    model = clean(large())
    assert factor(model, name, None, tmp_path) >= FACTORS[name] * 0.9


@pytest.mark.slow
@pytest.mark.parametrize("name", ["low", "medium", "high", "extreme"])
def test_reaches_its_size_and_keeps_what_was_learnt(name: str, tmp_path: Path) -> None:
    """On a task that can be learnt: which of five clouds of points a sample belongs to."""
    rng = np.random.default_rng(3)
    y = rng.integers(0, 5, 3000)
    centres = rng.normal(size=(5, 64))
    x = (centres[y] + rng.normal(scale=2.5, size=(3000, 64))).astype(np.float32)
    data = Dataset(
        source="test",
        train=Split(inputs=(x[:2000],), labels=y[:2000]),
        test=Split(inputs=(x[2000:],), labels=y[2000:]),
    )
    from trimtab.compress.fine_tune import FineTune
    from trimtab.compress.fine_tune import apply as fine_tune

    start = clean(large())
    for weight in find_weights(start):  # as they are drawn, a network of them cannot be trained
        size = np.sqrt(2 / weight.array.shape[0]) / 0.4
        set_initializer(weight.value, ((weight.array - 0.1) * size).astype(np.float32))
    taught = FineTune(epochs=6, label_share=1.0)
    model = fine_tune(start, taught, context(start, data))
    accuracy = float((run_graph(model, data.test.inputs)[0].argmax(axis=1) == y[2000:]).mean())
    assert accuracy > 0.85
    reached = factor(model, name, data, tmp_path)
    assert reached >= FACTORS[name] * 0.9
    left = ir.load(tmp_path / "small" / "model.onnx")
    kept = float((run_graph(left, data.test.inputs)[0].argmax(axis=1) == y[2000:]).mean())
    assert kept > accuracy - 0.05


def factor(model: ir.Model, name: str, data: Dataset | None, folder: Path) -> float:
    recipe = preset(name, model, PROFILE, dataset=data)
    result = run_recipe(model, recipe, context(model, data)).model
    samples = (np.random.default_rng(0).normal(size=(16, 64)).astype(np.float32),)
    before, after = (
        wire_bytes(export(graph, "onnxruntime", folder / place, samples=samples).files)
        for graph, place in ((model, "large"), (result, "small"))
    )
    return before / after
