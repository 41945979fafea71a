"""How training runs: optimizers, early stop, interrupts, augmentation, several outputs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np
import onnx_ir as ir
import pytest

from support import techniques
from support.quant_graphs import TrainedLike
from trimtab.compress.context import Context
from trimtab.compress.fine_tune import FineTune, apply
from trimtab.compress.teacher import teacher_answers
from trimtab.engine.schedule import Schedule, make_optimizer
from trimtab.engine.train import fine_tune
from trimtab.errors import DataError
from trimtab.evaluate.data import Dataset, Split
from trimtab.graph.clean import clean
from trimtab.graph.run import run_graph

pytestmark = pytest.mark.slow


def network(*, seed: int = 0) -> ir.Model:
    b = TrainedLike(12, seed=seed)
    x = b.op("Relu", b.op("Gemm", "x", b.weight(16, 12), b.weight(16), transB=1))
    return clean(b.build(b.op("Gemm", x, b.weight(5, 16), b.weight(5), transB=1)))


def two_headed(*, seed: int = 0) -> ir.Model:
    """Classes, and one value in large units."""
    b = TrainedLike(12, seed=seed)
    x = b.op("Relu", b.op("Gemm", "x", b.weight(16, 12), b.weight(16), transB=1))
    value = b.op("Gemm", x, b.weight(1, 16), b.weight(1), transB=1)
    model = b.build(b.op("Softmax", b.op("Gemm", x, b.weight(5, 16), transB=1), axis=-1))
    second = next(node.outputs[0] for node in model.graph if node.outputs[0].name == value)
    second.dtype, second.shape = ir.DataType.FLOAT, ir.Shape(["batch", 1])
    model.graph.outputs.append(second)
    return clean(model)


def samples(count: int = 400, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 12)).astype(np.float32)


def schedule(**changes: object) -> Schedule:
    fields = {"epochs": 6, "learning_rate": 0.01, "batch_size": 20, "temperature": 1.0, "seed": 0}
    return Schedule(**{**fields, **changes})


def context(
    teacher: ir.Model,
    labels: np.ndarray | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> Context:
    split = Split(inputs=(samples(),), labels=labels)
    data = Dataset(source="noise", train=split, test=split)
    return replace(techniques.context(teacher, data, log), seed=3)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "adam"},
        {"optimizer": "adamw", "weight_decay": 0.01},
        {"optimizer": "sgd", "learning_rate": 0.05},
        {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.0, "weight_decay": 1e-4},
        {"warmup": 0.2},
    ],
)
def test_every_optimizer_learns(changes):
    model, x = network(seed=1), samples()
    targets = run_graph(network(seed=2), [x])[0]
    history = fine_tune(model, [x], targets, None, schedule(**changes))
    assert history[-1].validation < 0.7 * history[0].validation


def test_rate_rises_to_its_highest_then_falls_to_zero():
    import keras

    variable = keras.Variable(np.zeros(2, np.float32))
    optimizer = make_optimizer(schedule(warmup=0.1), 100, [variable], has_norms=False)
    rates = []
    for _ in range(100):
        rates.append(float(optimizer.learning_rate))
        optimizer.apply([np.zeros(2, np.float32)])
    assert rates[0] == 0
    assert max(rates) == pytest.approx(0.01) == rates[10]
    assert rates[-1] < 1e-5


@pytest.mark.parametrize(("has_norms", "rate"), [(True, 0.004), (False, 0.001)])
def test_rate_by_default_is_higher_with_norms(has_norms, rate):
    import keras

    variable = keras.Variable(np.zeros(2, np.float32))
    settings = schedule(learning_rate=None)
    optimizer = make_optimizer(settings, 100, [variable], has_norms=has_norms)
    assert float(optimizer.learning_rate) == pytest.approx(rate)


def test_weight_decay_shrinks_matrices_and_leaves_biases():
    import keras

    matrix, bias = (keras.Variable(np.ones(shape, np.float32)) for shape in ((2, 2), (2,)))
    settings = schedule(optimizer="adamw", weight_decay=0.1)
    optimizer = make_optimizer(settings, 100, [matrix, bias], has_norms=False)
    optimizer.apply([np.zeros((2, 2), np.float32), np.zeros(2, np.float32)])
    assert (matrix.numpy() < 1).all()
    assert (bias.numpy() == 1).all()


def test_patience_ends_training_and_the_best_epoch_is_kept():
    model, x = network(), samples()
    before = run_graph(model, [x])[0]
    targets = (before + np.random.default_rng(4).normal(0, 0.1, before.shape)).astype(np.float32)
    history = fine_tune(model, [x], targets, None, schedule(learning_rate=1.0, patience=2))
    assert [entry.epoch for entry in history] == [0, 1, 2]
    np.testing.assert_array_equal(run_graph(model, [x])[0], before)


def test_an_interrupt_ends_training_and_keeps_the_best_so_far():
    model, x = network(seed=1), samples()
    targets = run_graph(network(seed=2), [x])[0]
    history = []

    def interrupt(loss):
        history.append(loss)
        if loss.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fine_tune(model, [x], targets, None, schedule(epochs=50), on_epoch=interrupt)
    assert [loss.epoch for loss in history] == [1, 2, 3]
    distance = np.square(run_graph(model, [x])[0] - targets).mean() / targets.var()
    assert distance == pytest.approx(history[-1].validation, rel=0.3)
    assert history[-1].validation < history[0].validation


def test_several_outputs_are_trained_together_each_by_its_own_loss():
    teacher, x = two_headed(seed=2), samples()
    answers = teacher_answers(teacher, [x])
    scaled = [answers[0], answers[1] * 1000]
    model = two_headed(seed=1)
    before = [
        np.square(a - b).mean() for a, b in zip(teacher_answers(model, [x]), scaled, strict=True)
    ]
    fine_tune(model, [x], scaled, None, schedule(epochs=30))
    after = [
        np.square(a - b).mean() for a, b in zip(teacher_answers(model, [x]), scaled, strict=True)
    ]
    assert after[0] < 0.5 * before[0]
    assert after[1] < before[1]


def test_regression_learns_from_labels():
    x = samples()
    labels = np.tanh(x @ np.random.default_rng(5).normal(size=(12, 5)) / 3).astype(np.float32)
    surroundings = context(network(), labels)
    step = FineTune(epochs=30, batch_size=20, learning_rate=0.01, label_share=1)
    trained = apply(network(), step, surroundings)
    errors = [np.square(run_graph(m, [x])[0] - labels).mean() for m in (network(), trained)]
    assert errors[1] < 0.3 * errors[0]


def test_augmentation_changes_what_is_trained_on(tmp_path, monkeypatch):
    (tmp_path / "my_augment.py").write_text(
        "import numpy as np\n"
        "seen = []\n"
        "def flip(inputs):\n"
        "    seen.append(len(inputs[0]))\n"
        "    return [array * np.random.choice([-1, 1]).astype('float32') for array in inputs]\n"
        "def cut(inputs):\n"
        "    return [array[:, :3] for array in inputs]\n"
        "def fail(inputs):\n"
        "    raise RuntimeError('no')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    teacher = network(seed=2)
    step = FineTune(epochs=20, batch_size=20, learning_rate=0.01, augment="my_augment:flip")
    trained = apply(network(seed=1), step, context(teacher))
    assert sys.modules["my_augment"].seen == [20] * 18 * 20
    x = -samples(seed=9)
    distances = [
        np.square(run_graph(m, [x])[0] - run_graph(teacher, [x])[0]).mean()
        for m in (network(seed=1), trained)
    ]
    assert distances[1] < 0.3 * distances[0]
    for function, message in (
        ("cut", r"shapes and dtypes that it gets: \[\(\(20, 12\).*it returned \[\(\(20, 3\)"),
        ("fail", "my_augment:fail failed: RuntimeError: no"),
        ("none", "module my_augment has no function none"),
    ):
        step = FineTune(epochs=1, batch_size=20, augment=f"my_augment:{function}")
        with pytest.raises(DataError, match=message):
            apply(network(seed=1), step, context(teacher))


def test_adam_refuses_a_weight_decay_that_it_would_not_use():
    with pytest.raises(msgspec.ValidationError, match="`adam` has no `weight_decay`"):
        msgspec.convert({"weight_decay": 0.1}, FineTune)


def test_what_became_of_training_is_said():
    answers = run_graph(network(), [samples()])[0]
    noise = np.random.default_rng(4).normal(0, 0.1, answers.shape)
    lines: list[str] = []
    surroundings = context(network(), (answers + noise).astype(np.float32), lines.append)
    apply(network(), FineTune(epochs=5, learning_rate=1.0, patience=2), surroundings)
    assert lines[-2:] == [
        "training ended after 2 of 5 epochs",
        "the weights of epoch 0 are kept: they did best on what was held back",
    ]
