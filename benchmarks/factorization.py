"""Ranks chosen by validation beside ranks chosen by equal error, at the same multiply-accumulates.

    python benchmarks/factorization.py --model MODEL.keras --digits DIGITS.npz [--hard HARD.npz]
        [--minilm CACHE] [--epochs 3] [--json RESULT.json]

On ResNet-8 and the digits of `digits.py`: for each drop that is allowed, `max_drop` chooses the
ranks of all layers on training images; `macs` then gets the multiply-accumulates that this reached,
and gives every layer about the same error. Both before and after the same training. At the same
budget, each method alone. Test sets are for figures only; nothing was chosen on them.

With `--minilm`, the same on the feed-forward layers of MiniLM-L6-v2, by the cosine of embeddings;
its accuracy is that of `minilm.py`'s task, without training.

Needs: trimtab, scipy; for MiniLM what `minilm_student.py` needs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from digits import dataset, distort, load_digits, machine, with_distorted

from trimtab.compress.context import Context
from trimtab.compress.recipe import parse_recipe, run_recipe
from trimtab.errors import ModelError
from trimtab.evaluate.data import Dataset, Split
from trimtab.graph.count import count_model
from trimtab.graph.load import load_model
from trimtab.graph.run import run_graph
from trimtab.hardware import load_profile

DROPS = (0.01, 0.03, 0.1)
METHODS = ("svd", "spatial", "tucker", "cp")
FEED_FORWARD = ("*.intermediate.dense.weight", "encoder.layer.?.output.dense.weight")
SEED = 7

Score = Callable[[ir.Model], dict[str, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--digits", type=Path, required=True)
    parser.add_argument("--hard", type=Path)
    parser.add_argument("--minilm", type=Path)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print(machine())
    rows = resnet8(arguments.model, arguments.digits, arguments.hard, arguments.epochs)
    if arguments.minilm:
        rows += minilm_layers(arguments.minilm)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def resnet8(path: Path, digits: Path, hard: Path | None, epochs: int) -> list[dict[str, Any]]:
    model, parts = load_model(path), load_digits(digits)
    images, labels = parts.test
    turned = np.load(hard)["h"].astype(np.float32) if hard else distort(images, 11)

    def score(changed: ir.Model) -> dict[str, float]:
        right = {
            name: run_graph(changed, [x])[0].argmax(axis=1) == labels
            for name, x in (("clean", images), ("hard", turned))
        }
        return {name: float(each.mean()) for name, each in right.items()}

    data = dataset(with_distorted(parts.train), parts.test)
    rows = [row("resnet8, float", model, model, score)]
    for drop in DROPS:
        rows += compare("resnet8", model, data, {"max_drop": drop}, score, epochs)
    share = rows[-1]["macs"]
    for method in METHODS:
        given = {"macs": share, "method": method}
        rows += attempt(f"resnet8, equal error, {method}", model, data, given, score)
    return rows


def minilm_layers(cache: Path) -> list[dict[str, Any]]:
    import minilm
    from minilm_student import accuracy

    texts = minilm.load_texts(cache)
    model = load_model(minilm.write_teacher(cache / "minilm.onnx"))
    splits = [Split(inputs=columns) for columns in (texts.train, texts.test)]
    data = Dataset(source="descriptions", train=splits[0], test=splits[1], task="embeddings")
    where = cache / "factorized.onnx"

    def score(changed: ir.Model) -> dict[str, float]:
        ir.save(changed, where)
        return {"accuracy": accuracy(where, texts)[0]}

    given = {"max_drop": 0.03, "samples": 64, "layers": FEED_FORWARD}
    return [
        row("minilm, float", model, model, score),
        *compare("minilm feed-forward", model, data, given, score, 0),
    ]


def compare(
    name: str,
    model: ir.Model,
    data: Dataset,
    given: Mapping[str, Any],
    score: Score,
    epochs: int,
) -> list[dict[str, Any]]:
    """Returns rows for `max_drop` and for equal error at what it reached, then trained alike."""
    what = f"max_drop {given['max_drop']}"
    validated = factorized(model, data, given)
    share = count_model(validated).macs / count_model(model).macs
    equal = factorized(model, data, {"macs": share, "layers": given.get("layers", ())})
    rows = []
    for label, changed in ((what, validated), (f"equal error as {what}", equal)):
        rows.append(row(f"{name}, {label}", changed, model, score))
        if epochs:
            trained = apply(changed, model, data, {"fine_tune": {"epochs": epochs}})
            rows.append(row(f"{name}, {label}, {epochs} epochs", trained, model, score))
    return rows


def attempt(
    name: str, model: ir.Model, data: Dataset, given: Mapping[str, Any], score: Score
) -> list[dict[str, Any]]:
    try:
        return [row(name, factorized(model, data, given), model, score)]
    except ModelError as error:
        print(f"{name}: {error}")
        return []


def factorized(model: ir.Model, data: Dataset, given: Mapping[str, Any]) -> ir.Model:
    return apply(model, model, data, {"factorize": dict(given)})


def apply(model: ir.Model, teacher: ir.Model, data: Dataset, step: Mapping[str, Any]) -> ir.Model:
    context = Context(
        profile=load_profile("generic-x86-64"),
        dataset=data,
        teacher=teacher,
        seed=SEED,
        log=lambda _: None,
    )
    return run_recipe(model, parse_recipe({"steps": [dict(step)]}, "benchmark"), context).model


def row(name: str, changed: ir.Model, model: ir.Model, score: Score) -> dict[str, Any]:
    counts, whole = count_model(changed), count_model(model)
    figures = score(changed)
    result = {
        "name": name,
        "macs": counts.macs / whole.macs,
        "parameters": counts.parameters / whole.parameters,
        **figures,
    }
    shown = "  ".join(f"{key} {value:.4f}" for key, value in figures.items())
    print(
        f"{name:52} MACs {result['macs']:.3f}  parameters {result['parameters']:.3f}  {shown}",
        flush=True,
    )
    return result


if __name__ == "__main__":
    main()
