"""ResNet-8 on digits in int8 and with int4 weights, beside the runtimes' own tools.

    python benchmarks/int8_resnet8.py --model MODEL.keras --digits DIGITS.npz --hard HARD.npz \
        --cache FOLDER [--only tflite onnxruntime openvino] [--rounds 15] [--json RESULT.json]

The float model is the same Keras file for all, and the same 256 training images calibrate. The
float row is Trimtab's float file. The bars: int8 loses at most 0.1 point on the clean test set and
0.2 on the hard one on every runtime, at no more than 1.02 of the best peer's time; int4 weights
lose at most 0.55 points on the hard one. The peers' files are kept in the cache folder.
Needs: trimtab, scipy, and what `int8_peers.py` says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from digits import dataset, load_digits
from int8_peers import INT4_PEERS, INT8_PEERS, keras_sources
from int8_report import FASTEST, Limits, argument_parser, report
from int8_rows import (
    FLOAT,
    OURS,
    File,
    accuracies,
    add_losses,
    compress,
    made_all,
    measure,
    written,
)

from trimtab.graph.load import load_model

CALIBRATION_SAMPLES = 256
INT4 = "trimtab int4 weights"
LIMITS: dict[str, Limits] = {
    OURS: {
        "clean: points lost": ("at most", 0.1),
        "hard: points lost": ("at most", 0.2),
        **FASTEST,
    },
    INT4: {"hard: points lost": ("at most", 0.55)},
}
RECIPES: dict[str, dict[str, Any]] = {
    OURS: {"quantize_int8": {"calibration_samples": CALIBRATION_SAMPLES}},
    INT4: {"quantize_weights": {"bits": 4}},
}


def main() -> None:
    parser = argument_parser(str(__doc__))
    for name in ("model", "digits", "hard"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments = parser.parse_args()
    digits = load_digits(arguments.digits)
    clean, labels = digits.test
    with np.load(arguments.hard) as archive:
        tests = {"clean": clean, "hard": archive["h"]}

    files = our_files(arguments.model, digits, arguments.cache, arguments.only)
    files += made_all(
        INT8_PEERS + INT4_PEERS,
        keras_sources(arguments.model, arguments.cache / "keras"),
        [digits.train[0][:CALIBRATION_SAMPLES]],
        arguments.cache / "peers",
        arguments.only,
    )

    def figures(file: File) -> dict[str, float]:
        return accuracies(file, tests, labels)

    rows = measure(files, [clean[:1]], figures, arguments.rounds)
    add_losses(rows)
    report(rows, LIMITS, arguments.json)


def our_files(path: Path, digits: Any, folder: Path, targets: Any) -> list[File]:
    model = load_model(path)
    images, labels = digits.train
    data = dataset((images[:CALIBRATION_SAMPLES], labels[:CALIBRATION_SAMPLES]), digits.validation)
    graphs = {FLOAT: model}
    for name, step in RECIPES.items():
        graphs[name] = compress(model, {"steps": [step]}, data)
    samples = [digits.validation[0][:64]]
    return [
        file
        for name, graph in graphs.items()
        for file in written(name, graph, folder, samples, targets)
    ]


if __name__ == "__main__":
    main()
