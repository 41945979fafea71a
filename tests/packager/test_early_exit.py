"""Early exits: who leaves where, what is answered, and what cannot have exits."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from support.quant_graphs import TrainedLike
from trimtab.compress.early_exit import EarlyExit, apply
from trimtab.compress.exit_plan import Choice, Plan, choose_threshold
from trimtab.compress.exit_points import find_points
from trimtab.errors import DataError, ModelError, RecipeError, UnsupportedOperatorError
from trimtab.evaluate.data import Dataset, Split
from trimtab.graph.clean import clean
from trimtab.graph.count import count_model
from trimtab.graph.exits import Head, insert_exits
from trimtab.graph.run import run_graph
from trimtab.targets import export


def network(softmax: bool = True) -> ir.Model:
    b = TrainedLike(3, 8, 8)
    x = b.conv_relu(b.conv_relu("x", 3, 8), 8, 16)
    y = b.conv_relu(b.conv_relu(x, 16, 16), 16, 16)
    pooled = b.op("Flatten", b.op("GlobalAveragePool", b.op("Add", x, y)))
    logits = b.op("Gemm", pooled, b.weight(5, 16), b.weight(5), transB=1)
    return clean(b.build(b.op("Softmax", logits, axis=-1) if softmax else logits))


def inner(model: ir.Model) -> list[str]:
    return [n.outputs[0].name for n in model.graph if n.op_type == "Relu"]


def pooled(model: ir.Model, name: str, x: np.ndarray) -> np.ndarray:
    probe = model.clone()
    values = {v.name: v for n in probe.graph for v in n.outputs}
    probe.graph.outputs[0] = values[name]
    return run_graph(probe, [x])[0].mean(axis=(2, 3))


def head(model: ir.Model, index: int) -> Head:
    """A head that is sure of some samples."""
    name = inner(model)[index]
    features = pooled(model, name, samples())
    directions = np.random.default_rng(index).normal(size=(features.shape[1], 5))
    matrix = (directions / (features @ directions).std(axis=0)).astype(np.float32)
    return Head(name, (2, 3), matrix, -(features @ matrix).mean(axis=0))


def samples(count: int = 60) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, 3, 8, 8)).astype(np.float32)


def context(model: ir.Model, count: int = 400) -> SimpleNamespace:
    """Easy and hard samples: the model's own answers, with little or much in doubt."""
    x = samples(count)
    x[: count // 2] += 2
    split = Split(inputs=(x,), labels=None)
    lines: list[str] = []
    data = Dataset(source="noise", train=split, test=split)
    return SimpleNamespace(dataset=data, teacher=model, seed=3, log=lines.append, lines=lines)


@pytest.mark.parametrize("softmax", [True, False])
def test_each_sample_gets_the_first_sure_answer(softmax):
    model, x = network(softmax), samples()
    heads = [head(model, 0), head(model, 2)]
    with_exits = model.clone()
    insert_exits(with_exits, heads, 0.6, softmax=softmax)
    onnx.checker.check_model(ir.to_proto(with_exits), full_check=True)
    expected, seen = run_graph(model, [x])[0], set()
    for number in range(len(x)):
        for position, one in enumerate(heads):
            logits = pooled(model, one.value, x[number : number + 1]) @ one.matrix + one.bias
            shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
            if shares.max() > 0.6:
                expected[number] = shares if softmax else logits
                seen.add(position)
                break
        else:
            seen.add("end")
    assert seen == {0, 1, "end"}
    np.testing.assert_allclose(run_graph(with_exits, [x])[0], expected, rtol=1e-4, atol=1e-5)
    assert [value.name for value in with_exits.graph.outputs] == [model.graph.outputs[0].name]


def test_the_average_counts_each_branch_as_often_as_it_ran():
    model = network()
    whole = count_model(model).macs
    points = find_points(model, (inner(model)[0], inner(model)[2]))
    heads = [head(model, 0), head(model, 2)]
    choice = Choice(threshold=0.6, shares=(0.25, 0.5), score=1, whole=1)
    changed = model.clone()
    insert_exits(changed, heads, 0.6, softmax=True, shares=choice.shares)
    first, second = (one.matrix.size for one in heads)
    expected = (
        0.25 * (points[0].macs + first)
        + 0.5 * (points[1].macs + first + second)
        + 0.25 * (whole + first + second)
    )
    counted = count_model(changed)
    assert counted.macs == pytest.approx(expected, abs=2)
    assert Plan(points, heads, choice).average_macs(whole) == pytest.approx(expected)
    assert counted.uncounted == ()
    assert counted.parameters == count_model(model).parameters + sum(
        one.matrix.size + one.bias.size + 1 for one in heads
    )
    unmeasured = model.clone()
    insert_exits(unmeasured, heads, 0.6, softmax=True)
    assert count_model(unmeasured).macs > counted.macs  # the dearer branch, always


def test_nothing_of_the_rest_is_outside_of_its_branch():
    model = network()
    convolutions = [node.name for node in model.graph if node.op_type == "Conv"]
    insert_exits(model, [head(model, 1)], 0.9, softmax=True)
    assert [n.name for n in model.graph if n.op_type == "Conv"] == convolutions[:2]


def test_threshold_is_the_lowest_that_loses_no_more_than_allowed():
    goal = np.zeros(10, np.int64)
    whole = np.tile(np.array([[0.9, 0.1]]), (10, 1))
    whole[9] = [0.1, 0.9]
    sure = np.array([0.99, 0.98, 0.97, 0.96, 0.95, 0.90, 0.85, 0.80, 0.70, 0.60], np.float32)
    first_right = np.array([1, 1, 1, 1, 1, 0, 1, 1, 1, 0], bool)
    asked = np.where(
        first_right[:, None], np.stack([sure, 1 - sure], 1), np.stack([1 - sure, sure], 1)
    )
    strict = choose_threshold([asked], whole, goal, 0.0)
    assert 0.90 <= strict.threshold < 0.95
    assert strict.shares == (0.5,)
    assert strict.score == strict.whole == 0.9
    loose = choose_threshold([asked], whole, goal, 0.1)
    assert loose.shares == (1.0,)
    assert loose.score == pytest.approx(0.8)
    never = choose_threshold([1 - asked], whole, goal, 0.0)
    assert never.shares == (0.0,)
    assert never.score == 0.9


@pytest.mark.slow
def test_of_proposed_places_the_one_that_saves_most_is_taken():
    model = network()
    surroundings = context(model)
    result = apply(model, EarlyExit(max_drop=0.05, epochs=10), surroundings)
    assert sum(node.op_type == "If" for node in result.graph) == 1


@pytest.mark.slow
def test_easy_inputs_leave_and_answers_stay_as_good(tmp_path):
    model = network()
    surroundings = context(model)
    result = apply(model, EarlyExit(exits=(inner(model)[2],), max_drop=0.02), surroundings)
    x = surroundings.dataset.test.inputs[0]
    agreement = (run_graph(result, [x])[0].argmax(1) == run_graph(model, [x])[0].argmax(1)).mean()
    assert agreement > 0.95
    assert any("of held-back samples leave" in line for line in surroundings.lines)
    assert any("us on average with exits" in line for line in surroundings.lines)
    exported = export(result, "onnxruntime", tmp_path, samples=(x[:32],))
    assert exported.comparison.agreement == 1
    with pytest.raises(UnsupportedOperatorError, match="If"):
        export(result, "tflite", tmp_path, samples=(x[:4],))


def test_places_are_proposed_where_none_is_named():
    points = find_points(network(), ())
    assert 1 < len(points) <= 3
    assert [point.macs for point in points] == sorted(point.macs for point in points)
    assert all(point.axes == (2, 3) for point in points)
    b = TrainedLike(12, 4)
    x = b.op("Relu", b.op("MatMul", "x", b.weight(4, 8)))
    x = b.op("Relu", b.op("MatMul", x, b.weight(8, 8)))
    rows = clean(
        b.build(b.op("MatMul", b.op("ReduceMean", x, axes=[1], keepdims=0), b.weight(8, 5)))
    )
    assert find_points(rows, ())[0].axes == (1,)


@pytest.mark.parametrize(
    ("softmax", "labels", "task", "error", "message"),
    [
        (
            False,
            np.zeros((400, 5), np.float32),
            None,
            ModelError,
            "labels are float32 and no class",
        ),
        (False, None, "regression", ModelError, "its task is regression"),
        (False, None, "embeddings", ModelError, "its task is embeddings"),
        (True, np.full(400, 5), None, DataError, "0 to 4; .* go from 5 to 5"),
        (True, np.zeros((400, 2), int), None, DataError, r"the shape \[400, 2\]"),
    ],
)
def test_only_classifiers_have_exits(softmax, labels, task, error, message):
    model = network(softmax)
    surroundings = context(model)
    split = Split(inputs=surroundings.dataset.train.inputs, labels=labels)
    surroundings.dataset = Dataset(source="noise", train=split, test=split, task=task)
    with pytest.raises(error, match=message):
        apply(model, EarlyExit(), surroundings)


def test_independent_probabilities_have_no_exits():
    b = TrainedLike(3, 8, 8)
    pooled_ = b.op("Flatten", b.op("GlobalAveragePool", b.conv_relu(b.conv_relu("x", 3, 8), 8, 16)))
    logits = b.op("Gemm", pooled_, b.weight(5, 16), b.weight(5), transB=1)
    model = clean(b.build(b.op("Sigmoid", logits)))
    with pytest.raises(ModelError, match="independent probabilities"):
        apply(model, EarlyExit(), context(network()))


def test_what_cannot_have_exits_says_so():
    model = network()
    with pytest.raises(DataError, match="early_exit needs data"):
        apply(model, EarlyExit(), SimpleNamespace(dataset=None))
    with pytest.raises(RecipeError, match="there is no value 'nothing'; near: "):
        find_points(model, ("nothing",))
    maps = network()
    maps.graph.outputs[0] = next(n for n in maps.graph if n.op_type == "Relu").outputs[0]
    with pytest.raises(ModelError, match=r"takes a classifier: one output of shape \[batch, cl"):
        find_points(maps, ())
