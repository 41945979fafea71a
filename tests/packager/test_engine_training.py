"""Training graphs: weights go out and back unchanged, and fine-tuning does what it says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from support import techniques
from support.graphs import GRAPHS, GraphBuilder
from support.quant_graphs import TrainedLike
from trimtab.compress.context import Context
from trimtab.compress.fine_tune import FineTune, apply
from trimtab.engine.schedule import Schedule
from trimtab.engine.train import fine_tune
from trimtab.errors import DataError, ModelError
from trimtab.evaluate.data import Dataset, Split
from trimtab.graph.clean import clean
from trimtab.graph.run import run_graph

pytestmark = pytest.mark.slow

SCHEDULE = Schedule(epochs=4, learning_rate=0.01, batch_size=32, temperature=2.0, seed=3)
TRAINABLE = ["plain", "mobile", "grouped", "time_series_wrapped", "perceptron", "shared_weight"]


def shared_in_two_layouts() -> ir.Model:
    """One matrix, multiplied as it is and transposed."""
    b = GraphBuilder(5)
    square = b.weight(5, 5)
    x = b.op("Relu", b.op("Gemm", "x", square, b.weight(5)))
    return b.build(b.op("Gemm", x, square, b.weight(5), transB=1))


def patterns(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of five kinds, each a fixed pattern under noise as strong as itself."""
    kinds = np.random.default_rng(99).normal(size=(5, 3, 8, 8)).astype(np.float32)
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 5, count)
    noise = generator.normal(size=(count, 3, 8, 8)).astype(np.float32)
    return kinds[labels] + noise, labels


def classifier(softmax: bool = True) -> ir.Model:
    b = TrainedLike(3, 8, 8)
    x = b.op("Flatten", b.conv_relu("x", 3, 8))
    logits = b.op("Gemm", x, b.weight(5, 512), b.weight(5), transB=1)
    return clean(b.build(b.op("Softmax", logits, axis=-1) if softmax else logits))


def perturbed(model: ir.Model, amount: float) -> ir.Model:
    changed, generator = model.clone(), np.random.default_rng(7)
    for value in changed.graph.initializers.values():
        array = value.const_value.numpy()
        if array.dtype == np.float32:
            noisy = array + amount * array.std() * generator.normal(size=array.shape)
            value.const_value = ir.tensor(noisy.astype(np.float32), name=value.name)
    return changed


def context(model: ir.Model, x: np.ndarray, y: np.ndarray | None) -> Context:
    split = Split(inputs=(x,), labels=y)
    data = Dataset(source="patterns", train=split, test=split)
    return replace(techniques.context(model, data), seed=3)


def weights(model: ir.Model) -> dict[str, np.ndarray]:
    return {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}


@pytest.mark.parametrize("make", [*map(GRAPHS.get, TRAINABLE), shared_in_two_layouts])
def test_stored_variables_are_what_tensorflow_computed_with(make):
    from trimtab.engine.module import GraphModule
    from trimtab.tensorflow_setup import import_tensorflow

    tf = import_tensorflow()
    model = clean(make())
    before = weights(model.clone())
    module = GraphModule(model, trainable=True)
    module.store()
    for name, array in weights(model).items():
        np.testing.assert_array_equal(array, before[name])
    for variable in module.variables:
        variable.assign(variable * 1.1 + 0.01)
    shape = [dim for dim in model.graph.inputs[0].shape if isinstance(dim, int)]
    data = np.random.default_rng(0).normal(size=(4, *shape)).astype(np.float32)
    expected = module([tf.constant(data)])[0].numpy()
    module.store()
    actual = run_graph(model, [data])[0]
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("make", [*map(GRAPHS.get, TRAINABLE), shared_in_two_layouts])
def test_every_weight_gets_a_gradient(make):
    import tensorflow as tf

    from trimtab.engine.module import GraphModule

    model = clean(make())
    module = GraphModule(model, trainable=True)
    shape = [dim for dim in model.graph.inputs[0].shape if isinstance(dim, int)]
    data = tf.constant(np.random.default_rng(0).normal(size=(4, *shape)).astype(np.float32))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(module([data])[0]))
    gradients = tape.gradient(loss, [variable.value for variable in module.variables])
    assert gradients
    assert all(gradient is not None for gradient in gradients)


def test_labels_teach_what_the_model_does_not_know():
    model = classifier()
    x, y = patterns(400, 0)
    trained = apply(
        model, FineTune(epochs=12, batch_size=16, learning_rate=0.003), context(model, x, y)
    )
    x_test, y_test = patterns(200, 1)
    before, after = (
        np.mean(run_graph(m, [x_test])[0].argmax(axis=1) == y_test) for m in (model, trained)
    )
    assert before < 0.5
    assert after > 0.7


@pytest.mark.parametrize("softmax", [True, False])
def test_without_labels_a_perturbed_model_comes_back_to_the_original(softmax):
    original = classifier(softmax)
    x, _ = patterns(400, 0)
    broken = perturbed(original, 0.3)
    trained = apply(broken, FineTune(epochs=10, batch_size=16), context(original, x, None))
    x_test, _ = patterns(100, 1)
    answers = [run_graph(m, [x_test])[0] for m in (original, broken, trained)]
    distances = [np.abs(answer - answers[0]).mean() for answer in answers[1:]]
    assert distances[1] < 0.5 * distances[0]


def test_same_seed_same_weights_and_other_seed_others():
    model = classifier()
    x, y = patterns(200, 0)
    step = FineTune(epochs=2)
    first, again = (weights(apply(model, step, context(model, x, y))) for _ in range(2))
    elsewhere = replace(context(model, x, y), seed=4)
    other = weights(apply(model, step, elsewhere))
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
    assert any(not np.array_equal(array, other[name]) for name, array in first.items())


def test_original_is_left_alone():
    model = classifier()
    before = weights(model.clone())
    x, y = patterns(100, 0)
    apply(model, FineTune(epochs=1), context(model, x, y))
    for name, array in weights(model).items():
        np.testing.assert_array_equal(array, before[name])


def test_best_epoch_is_kept_even_if_it_is_none():
    """A rate that wrecks the model: what was there before is the best."""
    model = classifier(softmax=False)
    before = weights(model.clone())
    x, _ = patterns(200, 0)
    targets = run_graph(model, [x])[0]
    seen = []
    schedule = Schedule(epochs=2, learning_rate=1.0, batch_size=16, temperature=2.0, seed=0)
    history = fine_tune(model, [x], targets, None, schedule, on_epoch=seen.append)
    assert history[1:] == seen
    assert min(entry.validation for entry in seen) > history[0].validation
    for name, array in weights(model).items():
        np.testing.assert_array_equal(array, before[name])


def test_training_that_runs_away_at_once_is_an_error_and_leaves_the_model_alone():
    model = classifier(softmax=False)
    before = weights(model.clone())
    x, _ = patterns(200, 0)
    targets = run_graph(model, [x])[0]
    hopeless = replace(SCHEDULE, learning_rate=1e30)
    with pytest.raises(
        ModelError, match=r"first epoch: .* no longer finite .* at 1e\+30; lower it"
    ):
        fine_tune(model, [x], targets, None, hopeless)
    for name, array in weights(model).items():
        np.testing.assert_array_equal(array, before[name])


def test_what_cannot_be_trained_is_refused_in_one_line():
    model = classifier()
    x, _ = patterns(4, 0)
    with pytest.raises(DataError, match="got 1"):
        fine_tune(model.clone(), [x[:1]], np.zeros((1, 5), np.float32), None, SCHEDULE)
    with pytest.raises(DataError, match="needs data: give --data"):
        apply(model, FineTune(), techniques.context(model))
    fixed = model.clone()
    fixed.graph.inputs[0].shape = ir.Shape([1, 3, 8, 8])
    with pytest.raises(ModelError, match="fixed batch of 1"):
        fine_tune(fixed, [x], np.zeros((4, 5), np.float32), None, SCHEDULE)


def test_an_interrupt_keeps_the_best_epoch_and_goes_on_to_the_caller() -> None:
    model = clean(GRAPHS["perceptron"]())
    (x,) = techniques.samples(model, 200)
    surroundings = context(model, x, None)
    worse = noisy(model)

    def interrupt(line: str) -> None:
        if line.startswith("epoch 2/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        apply(worse, FineTune(epochs=50), replace(surroundings, log=interrupt))
    kept = surroundings.kept.model
    assert kept is not None
    reference = run_graph(model, [x])[0]
    errors = [np.square(run_graph(one, [x])[0] - reference).mean() for one in (kept, worse)]
    assert errors[0] < errors[1]


def noisy(model: ir.Model) -> ir.Model:
    copy, rng = model.clone(), np.random.default_rng(0)
    for value in copy.graph.initializers.values():
        array = value.const_value.numpy()
        if array.dtype == np.float32:
            noise = rng.normal(0, 0.1, array.shape).astype(np.float32)
            value.const_value = ir.tensor(array + noise, name=value.name)
    return copy
