"""ResNet-8 with 80 % of its weights pruned and in int8, as TFMOT 0.8.1 is measured on it.

    python benchmarks/weight_pruning.py --model MODEL.keras --digits DIGITS.npz --hard HARD.npz \
        [--seeds 0 1 2] [--json RESULT.json]

The float model, the 18,000 training images (clean and two distorted copies), the 3 epochs and the
test sets are those of the peer's run; `digits.py` has them. The peer: TFMOT, 80 % by a polynomial
schedule over 3 epochs, then the converter's int8: hard accuracy 0.911, 30.4 kB in zstd, one seed.
Accuracy is that of the exported TFLite file in its runtime.
Needs: trimtab, scipy.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from digits import dataset, distort, load_digits, machine, with_distorted

from trimtab.compress.context import Context
from trimtab.compress.recipe import parse_recipe, run_recipe
from trimtab.graph.load import load_model
from trimtab.hardware import load_profile
from trimtab.package.wire import wire_bytes
from trimtab.targets import export
from trimtab_agent import runtimes

RECIPE = """
steps:
  - prune_weights: {sparsity: 0.8, rounds: 3, epochs_per_round: 1}
  - quantize_int8: {}
"""
WISHED = 0.935
TFMOT = 0.911


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("model", "digits", "hard"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--validate", action="store_true", help="on the validation split instead")
    parser.add_argument("--recipe", default=RECIPE, help="YAML")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    digits = load_digits(arguments.digits)
    if arguments.validate:
        clean, labels = digits.validation
        hard = distort(clean, 13)
    else:
        clean, labels = digits.test
        with np.load(arguments.hard) as archive:
            hard = archive["h"]
    train = with_distorted(digits.train)
    print(machine())
    print(arguments.recipe.strip())
    rows = [
        measure(arguments.model, arguments.recipe, train, (clean, hard, labels), seed)
        for seed in arguments.seeds
    ]
    accuracies = [row["hard"] for row in rows]
    print(f"hard: mean {np.mean(accuracies):.4f}, {min(accuracies):.4f} to {max(accuracies):.4f}")
    verdict = "holds" if np.mean(accuracies) >= WISHED else "MISSED"
    print(f"at least {WISHED} (TFMOT {TFMOT}): {verdict}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def measure(path: Path, recipe: str, train: Any, test: Any, seed: int) -> dict[str, Any]:
    """Compresses with one seed; accuracy on both test sets and sizes of the TFLite file."""
    clean, hard, labels = test
    model = load_model(path)
    context = Context(
        profile=load_profile("generic-x86-64"),
        dataset=dataset(train, (clean, labels)),
        teacher=model,
        seed=seed,
        log=lambda _: None,
    )
    start = time.perf_counter()
    compressed = run_recipe(model, parse_recipe(recipe, "recipe"), context).model
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        exported = export(compressed, "tflite", Path(folder), samples=(clean[:64],))
        session = runtimes.load("tflite", exported.path, threads=1)
        right = [
            float((runtimes.run_samples(session, [images])[0].argmax(axis=1) == labels).mean())
            for images in (clean, hard)
        ]
        row = {
            "seed": seed,
            "clean": right[0],
            "hard": right[1],
            "file_bytes": exported.file_bytes,
            "wire_bytes": wire_bytes(exported.files),
            "seconds": round(seconds),
        }
    print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return row


if __name__ == "__main__":
    main()
