"""What chooses channels better than chance: criteria of `prune_channels` on one model.

    python benchmarks/pruning_criteria.py --model MODEL --data DATA.npz \
        [--keep 0.5] [--scope uniform] [--epochs 1] [--plain] [--seeds 0 1 2] [--json RESULT.json]

Prunes to a share of the multiply-accumulates and trains for so many epochs, with each criterion
and each seed; `random` is the control. With `uniform` all end with the same widths, so only the
choice of channels differs. The training part of the data (x_train, y_train) is used alone: a fifth
of it is held out, and the accuracy is that on it. Training is the product's own by default;
`--plain` leaves batch norms folded, where a bad choice is repaired less.
Needs: trimtab.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
from digits import dataset, machine

from trimtab.compress.context import Context
from trimtab.compress.recipe import parse_recipe, run_recipe
from trimtab.evaluate.data import Dataset
from trimtab.graph.load import load_model
from trimtab.graph.run import run_graph
from trimtab.hardware import load_profile

CRITERIA = ("random", "l2", "taylor", "obd")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--keep", type=float, default=0.5)
    parser.add_argument("--scope", default="uniform")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    model = load_model(arguments.model)
    data = held_out(arguments.data)
    print(machine())
    print(f"{arguments.model.name}: {accuracy(model, data):.4f} on what is held out")
    training = {"epochs": arguments.epochs, "reinflate": not arguments.plain}
    results = {}
    for criterion in CRITERIA:
        step = {
            "macs": arguments.keep,
            "criterion": criterion,
            "scope": arguments.scope,
            "multiple": 1,
        }
        recipe = {"steps": [{"prune_channels": step}, {"fine_tune": training}]}
        found = results[criterion] = [
            accuracy(pruned(model, recipe, data, seed), data) for seed in arguments.seeds
        ]
        low, high = min(found), max(found)
        print(f"  {criterion:8} {np.mean(found):.4f} ({low:.4f}-{high:.4f})", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


def held_out(path: Path) -> Dataset:
    """Returns the training samples, a fifth of them as the test part."""
    with np.load(path) as archive:
        x, y = archive["x_train"], archive["y_train"].astype(np.int64)
    order = np.random.default_rng(0).permutation(len(x))
    test, train = np.split(order, [len(order) // 5])
    return dataset((x[train], y[train]), (x[test], y[test]))


def pruned(model: ir.Model, recipe: dict, data: Dataset, seed: int) -> ir.Model:
    context = Context(
        profile=load_profile("generic-x86-64"),
        dataset=data,
        teacher=model,
        seed=seed,
        log=lambda _: None,
    )
    return run_recipe(model, parse_recipe(recipe, "recipe"), context).model


def accuracy(model: ir.Model, data: Dataset) -> float:
    answers = run_graph(model, data.test.inputs)[0]
    return float((answers.argmax(axis=-1) == data.test.labels).mean())


if __name__ == "__main__":
    main()
