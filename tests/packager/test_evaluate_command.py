"""`trimtab evaluate` and `forbid_harm` as a user meets them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from support import graphs
from trimtab.cli.app import main
from trimtab.graph.access import constant, set_initializer
from trimtab.graph.run import run_graph


@pytest.fixture
def trimtab(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["trimtab", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return (code, *capfd.readouterr())

    return run


@pytest.fixture
def case(tmp_path: Path) -> tuple[Path, Path]:
    """A model, and data whose labels are its own answers."""
    model = graphs.plain()
    path = tmp_path / "tiny.onnx"
    ir.save(model, path)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3, 8, 8)).astype(np.float32)
    labels = run_graph(model, [x])[0].argmax(axis=1)
    data = tmp_path / "data.npz"
    np.savez(data, x_train=x[:20], y_train=labels[:20], x_test=x, y_test=labels)
    return path, data


def _damage_a_class(path: Path) -> Path:
    """Writes a copy of the model that never answers its most frequent class."""
    model = ir.load(path)
    gemm = next(node for node in model.graph if node.op_type == "Gemm")
    weight, bias = gemm.inputs[1], gemm.inputs[2]
    x = np.random.default_rng(0).normal(size=(300, 3, 8, 8)).astype(np.float32)
    often = np.bincount(run_graph(model, [x])[0].argmax(axis=1)).argmax()
    changed = constant(bias).copy()
    changed[often] = -1e3
    set_initializer(bias, changed)
    assert weight is not None
    damaged = path.with_name("damaged.onnx")
    ir.save(model, damaged)
    return damaged


def test_a_model_alone(trimtab, case):
    model, data = case
    code, out, err = trimtab("evaluate", model, "--data", data, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["task"], found["samples"], found["agreement"]) == ("classification", 300, None)
    assert found["figures"][0]["name"] == "top1"
    assert found["figures"][0]["value"] == 1


def test_the_form_of_minimal_builds(trimtab, case):
    import onnxruntime

    path, data = case
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path.with_suffix(".ort"))
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    code, out, err = trimtab(
        "evaluate", path.with_suffix(".ort"), "--against", path, "--data", data, "--json"
    )
    assert code == 0, err
    assert json.loads(out)["agreement"]["value"] == 1


def test_a_model_against_the_original_names_the_class_it_harms(trimtab, case):
    model, data = case
    damaged = _damage_a_class(model)
    code, out, err = trimtab("evaluate", damaged, "--data", data, "--against", model)
    assert code == 0, err
    assert "mcnemar" in out
    assert "agreement with the original: same_top1 0." in out
    assert "loses more than the rest: class " in out
    found = json.loads(
        trimtab("evaluate", damaged, "--data", data, "--against", model, "--json")[1]
    )
    assert sum(effect["harmed"] for effect in found["effects"]) == 1
    assert found["figures"][0]["p_value"] < 1e-6


def test_a_folder_that_compress_has_written(trimtab, case, tmp_path):
    model, data = case
    out = tmp_path / "out"
    options = ("--data", data, "--profile", "generic-x86-64", "--target", "onnxruntime")
    code, text, err = trimtab("compress", model, *options, "-o", out, "--json")
    assert code == 0, err
    compressed = json.loads(text)[0]["evaluation"]
    code, text, err = trimtab(
        "evaluate", out / "onnxruntime", "--data", data, "--against", model, "--json"
    )
    assert code == 0, err
    figure = json.loads(text)["figures"][0]
    assert figure["value"] == compressed["value"]
    assert figure["interval"] == compressed["interval"]
    assert compressed["task"] == "classification"
    assert compressed["agreement_metric"] == "same_top1"


def test_the_task_is_asked_for_where_it_is_not_clear(trimtab, case, tmp_path):
    model, _ = case
    data = tmp_path / "odd.npz"
    x = np.ones((10, 3, 8, 8), np.float32)
    np.savez(data, x_train=x, x_test=x, y_test=np.zeros((10, 3), np.float32))
    code, _, err = trimtab("evaluate", model, "--data", data)
    assert code == 2
    assert "no task takes these; choose --task" in err
    code, _, err = trimtab("evaluate", model, "--data", data, "--task", "clasify")
    assert code == 2
    assert "there is no task 'clasify'" in err


def test_labels_in_words_are_refused_with_the_way_out(trimtab, case, tmp_path):
    model, _ = case
    data = tmp_path / "text.npz"
    x = np.ones((10, 3, 8, 8), np.float32)
    np.savez(data, x_train=x, x_test=x, y_test=np.array(["a"] * 10))
    code, _, err = trimtab("evaluate", model, "--data", data)
    assert code == 2
    assert "such as 'a': give whole class numbers" in err


def test_harm_that_is_forbidden_is_refused_and_nothing_is_let_out(trimtab, case, tmp_path):
    """Pruned to a tenth without any training, the model forgets whole classes."""
    model, data = case
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "out"
    recipe.write_text("{forbid_harm: true, steps: [{prune_channels: {macs: 0.1, multiple: 1}}]}")
    options = ("--recipe", recipe, "--profile", "generic-x86-64", "--target", "onnxruntime")
    code, _, err = trimtab("compress", model, "--data", data, *options, "-o", out)
    assert code == 3
    assert "the recipe forbids harm, and the compressed model loses more than elsewhere on" in err
    assert "95 % interval" in err
    assert not list((out / "onnxruntime").iterdir())


def test_forbidding_harm_needs_labels(trimtab, case, tmp_path):
    model, _ = case
    recipe, data = tmp_path / "recipe.yaml", tmp_path / "unlabelled.npz"
    recipe.write_text("{forbid_harm: true, steps: []}")
    x = np.ones((10, 3, 8, 8), np.float32)
    np.savez(data, x_train=x, x_test=x)
    options = ("--recipe", recipe, "--profile", "generic-x86-64", "-o", tmp_path / "out")
    code, _, err = trimtab("compress", model, "--data", data, *options)
    assert code == 2
    assert "the data has neither classes nor groups to see it by" in err


def test_a_constraint_of_the_wrong_kind(trimtab, case, tmp_path):
    model, data = case
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("{forbid_harm: very, steps: []}")
    options = ("--recipe", recipe, "-o", tmp_path / "out")
    code, _, err = trimtab("compress", model, "--data", data, *options)
    assert code == 2
    assert "$.forbid_harm: Expected `bool`, got `str`" in err
