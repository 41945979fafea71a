"""A training step of the engine beside the same model's step in Keras.

    python benchmarks/training_step.py [--json RESULT.json] [--model MODEL.keras ...]

Without `--model` it takes a ResNet-8 (Banbury et al. 2021, "MLPerf Tiny", 28x28x1) and the 1-D CNN
of `scripts/demo_model.py`, with random weights: a step costs the same with any. All train with Adam
on the cross-entropy with labels, batch 64, float32, on the processor.

* `engine`: the graph as it is loaded, batch norms folded.
* `engine, norms`: with batch norms brought back.
* `keras fit`: `Model.fit` on a cached and prefetched data set, compiled without XLA.
* `keras xla`: the same compiled with XLA.

Each round times an epoch of every variant, one after another; figures are ratios to the faster
Keras variant of the same round: the median of the rounds, and their smallest and largest. The
engine with norms does the work that Keras does; it is the one to compare.
Needs: trimtab.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.tensorflow_setup import import_tensorflow

BATCH = 64
STEPS = 25
LIMIT = 1.15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--model", type=Path, action="append")
    arguments = parser.parse_args()
    import_tensorflow()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for path in arguments.model or own_models(Path(folder)):
            results[path.stem] = measure(path, arguments.rounds)
            print_table(path.stem, results[path.stem])
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


def own_models(folder: Path) -> list[Path]:
    paths = []
    for name, make in (("resnet8", resnet8), ("watch", watch)):
        paths.append(folder / f"{name}.keras")
        make().save(paths[-1])
    return paths


def resnet8() -> Any:
    import keras
    from keras import layers

    def conv(x: Any, filters: int, stride: int = 1) -> Any:
        x = layers.Conv2D(filters, 3, stride, padding="same")(x)
        return layers.BatchNormalization()(x)

    inputs = keras.Input((28, 28, 1))
    x = layers.ReLU()(conv(inputs, 16))
    for filters, stride in ((16, 1), (32, 2), (64, 2)):
        y = conv(layers.ReLU()(conv(x, filters, stride)), filters)
        if stride > 1:
            x = layers.Conv2D(filters, 1, stride, padding="same")(x)
        x = layers.ReLU()(layers.Add()([x, y]))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def watch() -> Any:
    """The network of scripts/demo_model.py, without its dropout, which a loaded graph lacks."""
    import keras
    from keras import layers

    model = keras.Sequential([keras.Input((100, 6))])
    for filters, kernel, pool in ((64, 5, True), (96, 5, True), (128, 3, False)):
        model.add(layers.Conv1D(filters, kernel, padding="same", use_bias=False))
        model.add(layers.BatchNormalization())
        model.add(layers.ReLU())
        if pool:
            model.add(layers.MaxPooling1D(2))
    model.add(layers.GlobalAveragePooling1D())
    model.add(layers.Dense(128, activation="relu"))
    model.add(layers.Dense(7))
    return model


def measure(path: Path, rounds: int) -> dict[str, Any]:
    """Times the variants in interleaved rounds; milliseconds a step, per round."""
    epochs = variants(path)
    for run in epochs.values():
        run()  # traces
    times: dict[str, list[float]] = {name: [] for name in epochs}
    for _ in range(rounds):
        for name, run in epochs.items():
            start = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - start) / STEPS * 1e3)
    reference = np.minimum(times["keras fit"], times["keras xla"])
    return {
        name: {
            "step_ms": float(np.median(taken)),
            "ratio": float(np.median(taken / reference)),
            "ratio_range": [float(min(taken / reference)), float(max(taken / reference))],
        }
        for name, taken in times.items()
    }


def variants(path: Path) -> dict[str, Callable[[], object]]:
    import keras

    model = keras.models.load_model(path)
    random = np.random.default_rng(7)
    x = random.normal(size=(STEPS * BATCH, *model.input_shape[1:])).astype(np.float32)
    y = random.integers(0, model.output_shape[-1], len(x))
    return {
        "engine": engine(path, x, y, norms=False),
        "engine, norms": engine(path, x, y, norms=True),
        "keras fit": keras_fit(model, x, y, xla=False),
        "keras xla": keras_fit(model, x, y, xla=True),
    }


def engine(path: Path, x: np.ndarray, y: np.ndarray, *, norms: bool) -> Callable[[], object]:
    from trimtab.engine.feed import Feed
    from trimtab.engine.losses import build_loss
    from trimtab.engine.module import GraphModule
    from trimtab.engine.schedule import Schedule
    from trimtab.engine.step import Trainer
    from trimtab.graph.load import load_model
    from trimtab.graph.run import run_graph

    graph = load_model(path)
    answers = run_graph(graph, [x])
    loss, goals = build_loss(graph, answers, y, temperature=1.0, label_share=1.0)
    schedule = Schedule(
        epochs=1000,
        learning_rate=1e-3,
        batch_size=BATCH,
        temperature=1.0,
        seed=7,
        reinflate=norms,
    )
    feed = Feed([x], goals[:1], goals[1:])
    module = GraphModule(graph, trainable=True)
    trainer = Trainer(module, loss, feed, np.arange(len(x)), schedule)
    return lambda: trainer.train_epoch(1)


def keras_fit(model: Any, x: np.ndarray, y: np.ndarray, *, xla: bool) -> Callable[[], object]:
    import keras
    import tensorflow as tf

    copy = keras.models.clone_model(model)
    copy.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=xla,
    )
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH).cache().prefetch(2)
    return lambda: copy.fit(data, epochs=1, verbose=0, shuffle=False)


def print_table(name: str, rows: dict[str, Any]) -> None:
    print(f"{name}, batch {BATCH}")
    for variant, row in rows.items():
        low, high = row["ratio_range"]
        ratio = f"{row['ratio']:.2f} ({low:.2f}-{high:.2f})"
        print(f"  {variant:15} {row['step_ms']:7.2f} ms a step, {ratio} of Keras'")
    verdict = "holds" if rows["engine, norms"]["ratio"] <= LIMIT else "MISSED"
    print(f"  at most {LIMIT} of Keras': {verdict}")


if __name__ == "__main__":
    main()
