"""LeNet-300-100 and LeNet-5 pruned, shared, quantized and coded, as Deep Compression is.

    python benchmarks/deep_compression.py --digits DIGITS.npz --work FOLDER [--json RESULT.json]
        [--model lenet300 lenet300-shifted lenet5] [--recipe FILE.yaml] [--validate]

Han et al. 2016 (arXiv:1510.00149, table 1) get 40x and 39x on MNIST's 60,000 digits; here there are
6,000 to train on, and the floats' errors are higher for it. `lenet300-shifted` is LeNet-300-100
with four copies of each, moved by up to two pixels, for the float model and for the recipe. The
float models are trained here, on the data that the recipe gets, and kept in the folder. Recipes and
epochs were chosen on the 1,000 validation digits (`--validate` evaluates on them); the errors
printed are on the 3,000 test digits.

Ratios are to 4 bytes for each parameter. `whole` is all that the package puts on the wire for the
model's files: graph, names, scales and biases too. `weights` is what the weights and biases take
of it: they coded by themselves, in the types in which the graph stores them.
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
import onnx_ir as ir
from digits import Part, dataset, load_digits, machine, with_shifted

from trimtab.compress.context import Context
from trimtab.compress.recipe import Recipe, parse_recipe, run_recipe
from trimtab.graph.count import count_model
from trimtab.graph.load import load_model
from trimtab.hardware import load_profile
from trimtab.package.wire import wire_bytes
from trimtab.targets import export
from trimtab.tensorflow_setup import import_tensorflow
from trimtab_agent import runtimes
from trimtab_agent.contract.manifest import RuntimeName

PUBLISHED = {"lenet300": 40, "lenet300-shifted": 40, "lenet5": 39}
EPOCHS = {"lenet300": 40, "lenet300-shifted": 8, "lenet5": 20}
"""Of the float models: without shifts, of 20 and 40 what did best on the validation digits."""

RECIPES = {
    "lenet300": """
steps:
  - prune_weights: {sparsity: 0.93, rounds: 6, epochs_per_round: 4, learning_rate: 0.002}
  - share_weights: {values: 8, epochs: 10}
  - quantize_int8: {weights_per_channel: false}
""",
    "lenet300-shifted": """
steps:
  - prune_weights: {sparsity: 0.93, rounds: 6, epochs_per_round: 2}
  - share_weights: {values: 16, epochs: 2}
  - quantize_int8: {weights_per_channel: false}
""",
    "lenet5": """
steps:
  - prune_weights: {sparsity: 0.98, rounds: 6, epochs_per_round: 2}
  - share_weights: {values: 8, epochs: 5}
  - quantize_int8: {weights_per_channel: false}
""",
}
TARGETS: tuple[RuntimeName, ...] = ("onnxruntime", "tflite", "openvino")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--digits", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--recipe", type=Path, help="instead of the model's own")
    parser.add_argument("--validate", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    digits = load_digits(arguments.digits)
    print(machine())
    results = {}
    for name in arguments.model:
        text = arguments.recipe.read_text() if arguments.recipe else RECIPES[name]
        print(f"{name}, seed {arguments.seed}\n{text.strip()}", flush=True)
        test = digits.validation if arguments.validate else digits.test
        train = with_shifted(digits.train) if name.endswith("shifted") else digits.train
        path = float_model(name, train, arguments.work)
        results[name] = measure(path, parse_recipe(text, name), train, test, arguments.seed)
        report(name, results[name])
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


def float_model(name: str, train: Part, folder: Path) -> Path:
    """Trains a float model, or takes the one that an earlier run has left."""
    path = folder / f"{name}.keras"
    if path.exists():
        return path
    import_tensorflow()
    import keras

    keras.utils.set_random_seed(7)
    model = lenet5() if name == "lenet5" else lenet300()
    (x, y), batch = train, 64
    steps = EPOCHS[name] * -(-len(x) // batch)
    rate = keras.optimizers.schedules.CosineDecay(1e-3, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss)
    model.fit(x, y, batch_size=batch, epochs=EPOCHS[name], verbose=0)
    folder.mkdir(parents=True, exist_ok=True)
    model.save(path)
    return path


def lenet300() -> Any:
    import keras
    from keras import layers

    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Flatten(),
            layers.Dense(300, "relu"),
            layers.Dense(100, "relu"),
            layers.Dense(10),
        ]
    )


def lenet5() -> Any:
    """Caffe's, which the paper compresses: 431,080 parameters."""
    import keras
    from keras import layers

    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(20, 5),
            layers.MaxPooling2D(),
            layers.Conv2D(50, 5),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(500, "relu"),
            layers.Dense(10),
        ]
    )


def measure(path: Path, recipe: Recipe, train: Part, test: Part, seed: int) -> dict[str, Any]:
    """Compresses a model; errors and sizes of the files for every runtime."""
    images, labels = test
    model = load_model(path)
    context = Context(
        profile=load_profile("generic-x86-64"),
        dataset=dataset(train, test),
        teacher=model,
        seed=seed,
        log=lambda _: None,
    )
    start = time.perf_counter()
    compressed = run_recipe(model, recipe, context).model
    row: dict[str, Any] = {
        "float_bytes": 4 * count_model(model).parameters,
        "seconds": round(time.perf_counter() - start),
        "weights_bytes": coded_weights(compressed),
    }
    with tempfile.TemporaryDirectory() as folder:
        for target in TARGETS:
            for kind, graph in (("float", model), ("compressed", compressed)):
                place = Path(folder) / kind / target
                exported = export(graph, target, place, samples=(images[:64],))
                session = runtimes.load(target, exported.path, threads=1)
                answers = runtimes.run_samples(session, [images])[0].argmax(axis=1)
                row[f"{kind} {target}"] = {
                    "error": float((answers != labels).mean()),
                    "file_bytes": exported.file_bytes,
                    "wire_bytes": wire_bytes(exported.files),
                }
    return row


def coded_weights(model: ir.Model) -> int:
    """Returns the bytes that the weights and biases take on the wire, by themselves."""
    kept = [value.const_value for value in model.graph.initializers.values() if value.const_value]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.onnx"
        graph = ir.Graph([], [], nodes=[], name="w", opset_imports={"": 21})
        for number, tensor in enumerate(tensor for tensor in kept if tensor.size > 1):
            name = str(number)
            array = np.asarray(tensor.numpy())
            graph.register_initializer(ir.Value(name=name, const_value=ir.tensor(array, name=name)))
        ir.save(ir.Model(graph, ir_version=10), path)
        return wire_bytes([path])


def report(name: str, row: dict[str, Any]) -> None:
    float_bytes = row["float_bytes"]
    print(f"{row['seconds']} s; weights {float_bytes / row['weights_bytes']:.1f}x smaller")
    held = False
    for target in TARGETS:
        before, after = row[f"float {target}"], row[f"compressed {target}"]
        ratio = float_bytes / after["wire_bytes"]
        held |= ratio >= PUBLISHED[name] and after["error"] <= before["error"]
        print(
            f"  {target:12} error {before['error']:.4f} -> {after['error']:.4f}, file "
            f"{before['file_bytes']} -> {after['file_bytes']}, wire {before['wire_bytes']} -> "
            f"{after['wire_bytes']}: {ratio:.1f}x smaller whole"
        )
    print(f"at least {PUBLISHED[name]}x and no more errors: {'holds' if held else 'MISSED'}")


if __name__ == "__main__":
    main()
