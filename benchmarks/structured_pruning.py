"""ResNet-8 with fewer channels: half the multiply-accumulates, and as few as accuracy allows.

    python benchmarks/structured_pruning.py --model MODEL.keras --digits DIGITS.npz \
        [--seeds 0 1 2] [--validate] [--peer-python PYTHON] [--json RESULT.json]

The float model, the 18,000 training images (clean and two distorted copies), the epochs and the
test sets are those of the peer's run; `digits.py` has them. The recipes' parameters were chosen on
the validation split (`--validate`: its 1,000 images, and four distorted copies of each).
With `--peer-python`, an interpreter that has torch, torch-pruning and onnx, Torch-Pruning is run
beside, with the same epochs as `half`: see `torch_pruning_peer.py`.

Accuracy is that of the graph in ONNX Runtime. Latency is one thread, batch 1, processor time as
`timing.py` takes it, as how many times faster than the float file of the same runtime and round:
the median of the rounds, and their 10 and 90 %.
Needs: trimtab, scipy.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import timing
from digits import Digits, Part, dataset, distort, load_digits, machine, with_distorted

from trimtab.compress.context import Context
from trimtab.compress.recipe import parse_recipe, run_recipe
from trimtab.graph.count import count_model
from trimtab.graph.load import load_model
from trimtab.graph.run import run_graph
from trimtab.hardware import load_profile
from trimtab.targets import export
from trimtab_agent import runtimes
from trimtab_agent.contract.manifest import RuntimeName

RUNTIMES: tuple[RuntimeName, ...] = ("tflite", "onnxruntime")
TEST_SEED = 11
"""Of the distorted test set; the validation split's are others."""
VALIDATION_SEEDS = (101, 102, 103, 104)


@dataclass(frozen=True)
class Bar:
    """A recipe and what is asked of it: shares kept, accuracy, and speed by runtime."""

    recipe: str
    macs: float
    parameters: float
    hard: float
    faster: dict[str, float]


BARS = {
    "half": Bar(
        recipe="""
steps:
  - prune_channels: {macs: 0.5, criterion: taylor, scope: uniform}
  - fine_tune: {epochs: 3, learning_rate: 0.01, warmup: 0.1}
""",
        macs=0.5,
        parameters=1.0,
        hard=0.939,
        faster={},
    ),
    "far": Bar(
        recipe="""
steps:
  - prune_channels: {parameters: 0.19, criterion: taylor, scope: uniform}
  - distil: {epochs: 8, learning_rate: 0.02, warmup: 0.1}
""",
        macs=0.28,
        parameters=0.19,
        hard=0.938,
        faster={"tflite": 2.0, "onnxruntime": 1.8},
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--digits", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", choices=BARS, help="one of the two")
    parser.add_argument("--validate", action="store_true", help="on the validation split")
    parser.add_argument("--rounds", type=int, default=7, help="of the latency measurement")
    parser.add_argument("--peer-python", help="an interpreter that has torch-pruning")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    digits = load_digits(arguments.digits)
    tests = test_sets(digits, validate=arguments.validate)
    print(machine())
    model = load_model(arguments.model)
    graphs = {"float32": model}
    results = {"float32": {"runs": [figures(model, model, tests)]}}
    for name in [arguments.only] if arguments.only else BARS:
        print(BARS[name].recipe)
        runs = []
        for seed in arguments.seeds:
            graphs[name] = compress(model, BARS[name], digits, seed)
            runs.append({"seed": seed, **figures(graphs[name], model, tests)})
            print(name, runs[-1], flush=True)
        results[name] = {"runs": runs}
    if arguments.peer_python:
        peer = graphs["torch-pruning"] = run_peer(arguments.peer_python, arguments.model, digits)
        results["torch-pruning"] = {"runs": [figures(peer, model, tests)]}
    measure_latencies(graphs, digits.test[0][:1], arguments.rounds, results)
    report(results)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


def test_sets(digits: Digits, *, validate: bool) -> dict[str, Part]:
    """Returns the clean and the distorted one."""
    x, y = digits.validation if validate else digits.test
    seeds = VALIDATION_SEEDS if validate else (TEST_SEED,)
    distorted = np.concatenate([distort(x, seed) for seed in seeds])
    return {"clean": (x, y), "hard": (distorted, np.tile(y, len(seeds)))}


def compress(model: ir.Model, bar: Bar, digits: Digits, seed: int) -> ir.Model:
    context = Context(
        profile=load_profile("generic-x86-64"),
        dataset=dataset(with_distorted(digits.train), digits.validation),
        teacher=model,
        seed=seed,
        log=lambda _: None,
    )
    return run_recipe(model, parse_recipe(bar.recipe, "recipe"), context).model


def figures(graph: ir.Model, original: ir.Model, tests: dict[str, Part]) -> dict[str, Any]:
    """Returns shares kept, and accuracies."""
    left, whole = count_model(graph), count_model(original)
    found: dict[str, Any] = {
        "macs": round(left.macs / whole.macs, 3),
        "parameters": round(left.parameters / whole.parameters, 3),
    }
    for name, (x, y) in tests.items():
        answers = run_graph(graph, [laid(x, graph)])[0].argmax(axis=1)
        found[name] = round(float((answers == y).mean()), 4)
    return found


def laid(images: np.ndarray, graph: ir.Model) -> np.ndarray:
    """Returns images as the graph takes them: the peer's channels come first. There is one."""
    return images.reshape(len(images), *list(graph.graph.inputs[0].shape or ())[1:])


def run_peer(python: str, model: Path, digits: Digits) -> ir.Model:
    """Runs Torch-Pruning in an environment of its own and reads what it made."""
    import keras

    script = Path(__file__).with_name("torch_pruning_peer.py")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = keras.models.load_model(model).get_weights()
        np.savez(folder / "weights.npz", *weights)
        x, y = with_distorted(digits.train)
        np.savez(folder / "train.npz", x=x, y=y)
        subprocess.run([python, script, folder], check=True)
        return load_model(folder / "pruned.onnx")


def measure_latencies(
    graphs: dict[str, ir.Model], sample: np.ndarray, rounds: int, results: dict[str, Any]
) -> None:
    """Adds to the results how each graph's files do beside the float ones."""
    for runtime in RUNTIMES:
        with tempfile.TemporaryDirectory() as folder:
            sessions = {}
            for name, graph in graphs.items():
                own = laid(sample, graph)
                file = export(graph, runtime, Path(folder) / name, samples=(own,)).path
                session = runtimes.load(runtime, file, threads=1)
                sessions[name] = lambda run=session.run, own=own: run([own])
            times = timing.time_rounds(sessions, rounds)
            for name, own in times.items():
                ratio = timing.ratio(own, times["float32"])
                results[name][runtime] = {
                    "latency_us": round(float(np.median(own.processor_us)), 1),
                    "ratio_median": ratio.median,
                    "ratio_spread": [ratio.low, ratio.high],
                }


def report(results: dict[str, Any]) -> None:
    """Prints a table, and what holds."""
    print("| model | MACs | parameters | clean | hard (runs) | TFLite: faster | ORT: faster |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for name, result in results.items():
        runs = result["runs"]
        hard = [run["hard"] for run in runs]
        faster = [
            "{:.2f}x ({:.2f}-{:.2f})".format(
                1 / result[runtime]["ratio_median"],
                *sorted(1 / ratio for ratio in result[runtime]["ratio_spread"]),
            )
            for runtime in RUNTIMES
        ]
        print(
            f"| {name} | {mean(runs, 'macs'):.3f} | {mean(runs, 'parameters'):.3f} "
            f"| {mean(runs, 'clean'):.4f} | {np.mean(hard):.4f} ({min(hard):.4f}-{max(hard):.4f}) "
            f"| {faster[0]} | {faster[1]} |"
        )
    for name, bar in BARS.items():
        if name in results:
            for what, holds in verdicts(bar, results[name]):
                print(f"{name}: {what}: {'holds' if holds else 'MISSED'}")


def verdicts(bar: Bar, result: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """Yields what is asked, and whether the mean of the runs does it."""
    runs = result["runs"]
    for share in ("macs", "parameters"):
        limit = getattr(bar, share)
        yield f"at most {limit:.0%} of the {share}", mean(runs, share) <= limit
    yield f"hard accuracy at least {bar.hard}", mean(runs, "hard") >= bar.hard
    for runtime, factor in bar.faster.items():
        ratio = result[runtime]["ratio_median"]
        yield f"at least {factor}x as fast in {runtime}", 1 / ratio >= factor


def mean(runs: list[dict[str, Any]], what: str) -> float:
    return float(np.mean([run[what] for run in runs]))


if __name__ == "__main__":
    main()
