#!/usr/bin/env python3
"""Makes the demo's data and model: smart-watch exercises and a small Keras 1-D CNN.

The recordings are those of the `seglearn` package (BSD-3): accelerometer and gyroscope of a
smart watch at 50 Hz while ten people did seven shoulder exercises (Burns et al. 2018, "Shoulder
physiotherapy exercise recognition"). They are split by person, so that the test says how the
model does on somebody it has never seen.

    python scripts/demo_model.py RECORDINGS.npy OUTPUT_FOLDER

writes `watch.npz` (x_train, y_train, x_test, y_test) and `watch.keras`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

WINDOW = 100  # samples: 2 s
HOP = 25
TEST_PEOPLE = (3, 6, 9)
SEED = 7
EPOCHS = 15


def windows(recordings: Path) -> dict[str, np.ndarray]:
    """Cuts the recordings into windows `[100, 6]`, standardised by the training people."""
    # The file is a pickled dict; it comes from a package that pip has checked.
    data = np.load(recordings, allow_pickle=True).item()
    x, y, person = [], [], []
    for series, label, who in zip(data["X"], data["y"], data["subject"], strict=True):
        for start in range(0, len(series) - WINDOW + 1, HOP):
            x.append(series[start : start + WINDOW])
            y.append(label)
            person.append(who)
    samples, labels = np.asarray(x, np.float32), np.asarray(y).astype(np.int64)
    test = np.isin(person, TEST_PEOPLE)
    mean, spread = samples[~test].mean((0, 1)), samples[~test].std((0, 1))
    samples = ((samples - mean) / spread).astype(np.float32)
    return {
        "x_train": samples[~test],
        "y_train": labels[~test],
        "x_test": samples[test],
        "y_test": labels[test],
    }


def train(data: dict[str, np.ndarray], path: Path) -> float:
    """Trains the network, saves it, and returns its accuracy on the people it never saw."""
    from trimtab.tensorflow_setup import import_tensorflow

    import_tensorflow()
    import keras
    from keras import layers

    keras.utils.set_random_seed(SEED)

    def block(filters: int, kernel: int) -> list[keras.Layer]:
        return [
            layers.Conv1D(filters, kernel, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
        ]

    model = keras.Sequential(
        [
            keras.Input(data["x_train"].shape[1:], name="watch"),
            *block(64, 5),
            layers.MaxPooling1D(2),
            *block(96, 5),
            layers.MaxPooling1D(2),
            *block(128, 3),
            layers.GlobalAveragePooling1D(),
            layers.Dropout(0.5),
            layers.Dense(128, activation="relu"),
            layers.Dense(7, activation="softmax", name="exercise"),
        ]
    )
    steps = EPOCHS * (len(data["x_train"]) // 64)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, steps)),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(data["x_train"], data["y_train"], batch_size=64, epochs=EPOCHS, verbose=2)
    model.save(path)
    return float(model.evaluate(data["x_test"], data["y_test"], verbose=0)[1])


def main(recordings: Path, output: Path) -> None:
    """Writes both files, unless they are there already."""
    output.mkdir(parents=True, exist_ok=True)
    data = windows(recordings)
    np.savez(output / "watch.npz", **data)
    print(f"{len(data['x_train'])} windows to train on, {len(data['x_test'])} of other people")
    accuracy = train(data, output / "watch.keras")
    print(f"float Keras model: top-1 {accuracy:.3f} on people it has never seen")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
