"""ResNet-8 in int8 after training: with its roundings in place, and with fewer channels.

    python benchmarks/int8_trained.py --model MODEL.keras --digits DIGITS.npz --hard HARD.npz \
        --cache FOLDER [--only tflite onnxruntime openvino] [--rounds 15] [--json RESULT.json]

Training is on the 18,000 augmented digits of the other ResNet-8 scripts; a trained graph is kept in
the cache folder, so that the next run only measures. The bars: `quantize_aware` loses at most 0.1
point, clean and hard; the pruned int8 model has a hard accuracy of at least 0.935, is at least 1.9
times as fast as the unpruned int8 model in TFLite, and no slower in ONNX Runtime. The recipe that
prunes is that of `structured_pruning.py`, whose parameters were chosen on the validation digits.
Needs: trimtab, scipy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from digits import Digits, dataset, load_digits, with_distorted
from int8_report import argument_parser, report
from int8_rows import (
    FLOAT,
    OURS,
    File,
    accuracies,
    add_losses,
    compress,
    measure,
    slug,
    written,
)

from trimtab.graph.load import load_model

PRUNED = "trimtab pruned, float"
PRUNE = [
    {"prune_channels": {"parameters": 0.19, "criterion": "taylor", "scope": "uniform"}},
    {"distil": {"epochs": 8, "learning_rate": 0.02, "warmup": 0.1}},
]
TRAINED = {
    "trimtab trained int8": [{"quantize_aware": {"epochs": 3}}],
    "trimtab trained int4 weights": [{"quantize_aware": {"epochs": 3, "weight_bits": 4}}],
}
INT8 = [{"quantize_int8": {}}]
SPEED = "processor_us / unpruned int8"


def main() -> None:
    parser = argument_parser(str(__doc__))
    for name in ("model", "digits", "hard"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments = parser.parse_args()
    digits = load_digits(arguments.digits)
    clean, labels = digits.test
    with np.load(arguments.hard) as archive:
        tests = {"clean": clean, "hard": archive["h"]}
    graphs = make_graphs(load_model(arguments.model), digits, arguments.cache)
    files: list[File] = []
    for name, graph in graphs.items():
        samples = [digits.validation[0][:64]]
        files += written(name, graph, arguments.cache, samples, arguments.only)

    def figures(file: File) -> dict[str, float]:
        return accuracies(file, tests, labels)

    rows = measure(files, [clean[:1]], figures, arguments.rounds, beside={"unpruned int8": OURS})
    add_losses(rows)
    report(rows, {}, arguments.json)
    print_verdicts(rows)


def make_graphs(model: ir.Model, digits: Digits, folder: Path) -> dict[str, ir.Model]:
    """Returns the graphs by name; those that are trained come from the cache if they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    augmented = dataset(with_distorted(digits.train), digits.validation)
    plain = dataset(digits.train, digits.validation)

    def kept(name: str, steps: list[dict[str, Any]]) -> ir.Model:
        path = folder / f"{slug(name)}.onnx"
        if not path.exists():
            ir.save(compress(model, {"steps": steps}, augmented), path)
        return ir.load(path)

    pruned = kept(PRUNED, PRUNE)
    return {
        FLOAT: model,
        OURS: compress(model, {"steps": INT8}, plain),
        **{name: kept(name, steps) for name, steps in TRAINED.items()},
        PRUNED: pruned,
        "trimtab pruned int8": compress(pruned, {"steps": INT8}, plain, teacher=model),
    }


def print_verdicts(rows: list[dict[str, Any]]) -> None:
    """Prints whether each bar is held."""
    for row in rows:
        asked: dict[str, bool] = {}
        if row["file"] == "trimtab trained int8":
            asked |= {
                f"{part} at most 0.1": row[part] <= 0.1
                for part in ("clean: points lost", "hard: points lost")
            }
        if row["file"] == "trimtab pruned int8":
            asked["hard at least 0.935"] = row["hard"] >= 0.935
            limit = {"tflite": 1 / 1.9, "onnxruntime": 1.0}.get(row["runtime"])
            if limit is not None:
                asked[f"{SPEED} at most {limit:.3f}"] = row[SPEED].median <= limit
        for what, holds in asked.items():
            print(f"{row['runtime']}, {row['file']}: {what}: {'held' if holds else 'MISSED'}")


if __name__ == "__main__":
    main()
