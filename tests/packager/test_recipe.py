"""Recipes: what they may say, what is said of mistakes, and that their steps are run in order."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from support.graphs import GRAPHS
from trimtab.compress.context import Context
from trimtab.compress.recipe import TECHNIQUES, parse_recipe, run_recipe
from trimtab.errors import RecipeError
from trimtab.graph.count import count_model
from trimtab.hardware import load_profile

RECIPE = """
steps:
  - prune_channels: {macs: 0.5}
  - fine_tune: {epochs: 3}
  - quantize_int8: {}
"""


def test_reads_yaml() -> None:
    recipe = parse_recipe(RECIPE, "recipe.yaml")
    assert [step.technique for step in recipe.steps] == [
        "prune_channels",
        "fine_tune",
        "quantize_int8",
    ]
    assert recipe.steps[0].parameters.macs == 0.5
    assert recipe.steps[1].parameters.epochs == 3


def test_writes_what_it_reads() -> None:
    recipe = parse_recipe(RECIPE, "recipe.yaml")
    assert parse_recipe(recipe.to_dict(), "dict") == recipe


def test_a_recipe_may_have_no_steps() -> None:
    assert parse_recipe({"steps": []}, "dict").steps == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: [", "recipe.yaml: no YAML: "),
        ("[]", "recipe.yaml: $: a recipe is a mapping with a list of `steps`"),
        ("steps: 3", "recipe.yaml: $: a recipe is a mapping with a list of `steps`"),
        ("{steps: [], seed: 1}", "recipe.yaml: $: unknown field `seed`; known: steps, forbid_harm"),
        ("steps: [fine_tune]", "recipe.yaml: $.steps[0]: a step is one technique"),
        ("steps: [{fine_tune: {}, quantize_int8: {}}]", "recipe.yaml: $.steps[0]: a step is one"),
        (
            "steps: [{fine_tune: {}}, {prune_chanels: {}}]",
            "recipe.yaml: $.steps[1]: unknown technique `prune_chanels`; did you mean `prune_chan",
        ),
        (
            "steps: [{polish: {}}]",
            "recipe.yaml: $.steps[0]: unknown technique `polish`; known: prune_channels,",
        ),
        (
            "steps: [{fine_tune: }]",
            "recipe.yaml: $.steps[0].fine_tune: parameters are a mapping, {} for none; got None",
        ),
        (
            "steps: [{fine_tune: {epoch: 3}}]",
            "recipe.yaml: $.steps[0].fine_tune: unknown parameter `epoch`; did you mean `epochs`?",
        ),
        (
            "steps: [{fine_tune: {epochs: many}}]",
            "recipe.yaml: $.steps[0].fine_tune.epochs: Expected `int`, got `str`",
        ),
        (
            "steps: [{prune_channels: {macs: 2}}]",
            "recipe.yaml: $.steps[0].prune_channels.macs: Expected `float` <= 1.0",
        ),
        (
            "steps: [{prune_channels: {}}]",
            "recipe.yaml: $.steps[0].prune_channels: give one of `keep`, `macs`, `parameters`",
        ),
    ],
)
def test_says_what_is_wrong_and_where(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, "recipe.yaml")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", TECHNIQUES)
def test_every_technique_has_its_struct_and_its_function(name: str) -> None:
    module_name, struct = TECHNIQUES[name]
    module = importlib.import_module(module_name)
    assert issubclass(getattr(module, struct), msgspec.Struct)
    assert callable(module.apply)


def test_runs_steps_in_order_and_counts_each() -> None:
    model = GRAPHS["plain"]()
    lines: list[str] = []
    context = Context(
        profile=load_profile("generic-x86-64"),
        dataset=None,
        teacher=model,
        seed=0,
        log=lines.append,
    )
    halves = parse_recipe({"steps": [{"prune_channels": {"macs": 0.5, "multiple": 1}}] * 2}, "dict")
    result = run_recipe(model, halves, context)
    first, second = result.reports
    assert first.before == count_model(model)
    assert first.before.macs > first.after.macs > second.after.macs
    assert second.before == first.after
    assert second.after == count_model(result.model)
    assert first.duration_s > 0
    assert lines[0].startswith('prune_channels: {"keep":null,"macs":0.5')
    assert any("channels" in line for line in lines[1:])


def test_checking_a_recipe_does_not_import_tensorflow(tmp_path: Path) -> None:
    code = (
        "import sys; from trimtab.compress.recipe import parse_recipe; "
        f"parse_recipe({RECIPE!r}, 'r'); sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=tmp_path).returncode == 0
