"""Layers replaced by factors compute what their weights' approximation computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from support.graphs import CLASSES, GRAPHS, GraphBuilder
from support.sequence_graphs import SEQUENCE_GRAPHS
from trimtab.compress.context import Context
from trimtab.compress.factorize import Factorize, apply, replaced
from trimtab.compress.factors import SPLITTERS, find_layers
from trimtab.compress.factors.ranks import by_budget, by_energy
from trimtab.errors import DataError, ModelError, RecipeError
from trimtab.evaluate.data import Dataset, Split
from trimtab.graph.access import hold
from trimtab.graph.count import count_model
from trimtab.graph.run import run_graph
from trimtab.hardware import load_profile


def outputs(model: ir.Model) -> np.ndarray:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    shape = session.get_inputs()[0].shape
    x = np.random.default_rng(7).normal(size=(3, *shape[1:])).astype(np.float32)
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def conv(
    made: int = 6, taken: int = 4, kernel: tuple[int, ...] = (3, 3), **options: object
) -> ir.Model:
    b = GraphBuilder(taken, *[12] * len(kernel))
    weight = b.weight(made, taken // int(options.get("group", 1)), *kernel)
    x = b.op("Conv", "x", weight, b.weight(made), **options)
    spatial = list(range(2, 2 + len(kernel)))
    return b.build(b.dense(b.op("ReduceMean", x, axes=spatial, keepdims=0), made, CLASSES))


def transposed(
    made: int = 6, taken: int = 4, kernel: tuple[int, ...] = (3, 3), **options: object
) -> ir.Model:
    b = GraphBuilder(taken, *[7] * len(kernel))
    group = int(options.get("group", 1))
    weight = b.weight(taken, made // group, *kernel)
    x = b.op("ConvTranspose", "x", weight, b.weight(made), **options)
    spatial = list(range(2, 2 + len(kernel)))
    # Squares, so that no position is lost in the mean.
    x = b.op("ReduceMean", b.op("Mul", x, x), axes=spatial, keepdims=0)
    return b.build(b.dense(x, made, CLASSES))


CONVOLUTIONS: dict[str, Callable[[], ir.Model]] = {
    "plain": conv,
    "padded": lambda: conv(pads=[1, 1, 1, 1]),
    "uneven": lambda: conv(kernel=(3, 5), pads=[2, 0, 1, 4], strides=[2, 1]),
    "strided": lambda: conv(strides=[2, 2], pads=[0, 0, 1, 1]),
    "dilated": lambda: conv(dilations=[2, 3], pads=[2, 3, 2, 3]),
    "same_upper": lambda: conv(auto_pad="SAME_UPPER", strides=[2, 2]),
    "same_lower": lambda: conv(kernel=(4, 2), auto_pad="SAME_LOWER"),
    "one_dimensional": lambda: conv(kernel=(5,), pads=[2, 2], strides=[2]),
    "three_dimensional": lambda: conv(kernel=(2, 3, 2)),
    "grouped": lambda: conv(made=12, taken=8, group=2, strides=[2, 2]),
    "transposed": transposed,
    "transposed_uneven": lambda: transposed(
        kernel=(3, 4), strides=[3, 2], pads=[1, 0, 2, 1], output_padding=[2, 1]
    ),
    "transposed_dilated": lambda: transposed(dilations=[2, 1], strides=[1, 2]),
    "transposed_same": lambda: transposed(auto_pad="SAME_UPPER", strides=[2, 2]),
    "transposed_grouped": lambda: transposed(made=12, taken=8, group=2, strides=[2, 2]),
    "transposed_line": lambda: transposed(kernel=(4,), strides=[2]),
}


def check(model: ir.Model, method: str) -> None:
    """At full rank the layer is the same; each rung costs what it says."""
    layer = find_layers(model)[0][0]
    splitter = SPLITTERS[method]
    rung = splitter.rung(layer, splitter.highest(layer), 0.0)
    changed = replaced(model, {layer.name: rung})
    expected = outputs(model)
    np.testing.assert_allclose(outputs(changed), expected, atol=1e-4 * np.abs(expected).max())
    counted = count_model(changed)
    assert counted.macs == count_model(model).macs - layer.macs + rung.macs
    assert counted.parameters == count_model(model).parameters - layer.weight.size + rung.parameters


@pytest.mark.parametrize("method", ["svd", "spatial", "tucker", "cp"])
@pytest.mark.parametrize("form", CONVOLUTIONS)
def test_full_rank_reproduces_a_convolution(form: str, method: str) -> None:
    model = CONVOLUTIONS[form]()
    layer = find_layers(model)[0][0]
    if method == "spatial" and len(layer.kernel) != 2:
        assert "2-D" in str(SPLITTERS[method].refusal(layer))
    else:
        check(model, method)


def gemm(transposed: bool) -> ir.Model:
    b = GraphBuilder(24)
    weight = b.weight(40, 24) if transposed else b.weight(24, 40)
    x = b.op("Gemm", "x", weight, b.weight(40), transB=int(transposed))
    return b.build(b.dense(b.op("Relu", x), 40, CLASSES))


def product(*lengths: int) -> ir.Model:
    b = GraphBuilder(*lengths, 24)
    x = b.op("Add", b.op("MatMul", "x", b.weight(24, 40)), b.weight(40))
    x = b.op("ReduceMean", x, axes=list(range(1, len(lengths) + 1)), keepdims=0)
    return b.build(b.dense(x, 40, CLASSES))


DENSE: dict[str, Callable[[], ir.Model]] = {
    "gemm": lambda: gemm(transposed=False),
    "gemm_transposed": lambda: gemm(transposed=True),
    "per_step": lambda: product(6),
    "per_place": lambda: product(3, 5),
}


def table() -> ir.Model:
    """A table of 40 vectors, and a dense layer behind it."""
    b = GraphBuilder(6)
    indices = b.op("Cast", b.op("Abs", "x"), to=TensorProto.INT64)
    x = b.op("ReduceMean", b.op("Gather", b.weight(40, 16), indices), axes=[1], keepdims=0)
    return b.build(b.dense(x, 16, CLASSES))


def test_a_table_becomes_a_narrower_one_with_a_product() -> None:
    check(table(), "svd")
    step = Factorize(rank=4, saves="parameters", layers=("Gather",))
    changed = apply(table(), step, context(low_rank(), data=False))
    saved = count_model(table()).parameters - count_model(changed).parameters
    assert saved == 40 * 16 - 40 * 4 - 4 * 16
    assert [node.op_type for node in changed.graph if "Gather" in node.op_type] == ["Gather"]


@pytest.mark.parametrize("form", ["lstm", "gru", "bidirectional_lstm"])
def test_recurrent_layers_take_a_narrower_input(form: str) -> None:
    check(recurrent(form), "svd")


def recurrent(form: str) -> ir.Model:
    operator, gates = ("GRU", 3) if form == "gru" else ("LSTM", 4)
    ways = 2 if form.startswith("bi") else 1
    b = GraphBuilder(5, 24)
    x = b.op("Transpose", "x", perm=[1, 0, 2])
    weights = [b.weight(ways, gates * 12, width) for width in (24, 12)]
    direction = "bidirectional" if ways == 2 else "forward"
    y = b.op(operator, x, *weights, b.weight(ways, gates * 24), hidden_size=12, direction=direction)
    x = b.op("Transpose", b.op("ReduceMean", y, axes=[0], keepdims=0), perm=[1, 0, 2])
    x = b.op("Reshape", x, b.constant([-1, ways * 12]))
    return b.build(b.dense(x, ways * 12, CLASSES))


@pytest.mark.parametrize("method", ["svd", "tensor_train"])
@pytest.mark.parametrize("form", DENSE)
def test_full_rank_reproduces_a_dense_layer(form: str, method: str) -> None:
    check(DENSE[form](), method)


@pytest.mark.parametrize("method", ["svd", "spatial", "tucker", "cp"])
def test_what_a_rung_says_it_loses_is_lost(method: str) -> None:
    model = conv(made=12, taken=8)
    layer = find_layers(model)[0][0]
    for rung in SPLITTERS[method].ladder(layer):
        changed = replaced(model, {layer.name: rung})
        # An impulse at each input shows the kernel that the factors make together.
        lost = _lost(layer.weight, changed)
        if method == "tucker":
            assert lost <= rung.lost + 1e-6
        else:
            assert lost == pytest.approx(rung.lost, abs=1e-5)


def _lost(weight: np.ndarray, changed: ir.Model) -> float:
    taken = weight.shape[1]
    changed = changed.clone()
    last = [n for n in changed.graph if n.op_type == "Conv"][-1]
    bias = last.inputs[2].const_value.numpy()
    changed.graph.outputs[0] = last.outputs[0]
    x = np.zeros((taken, taken, 12, 12), np.float32)
    x[np.arange(taken), np.arange(taken), 5, 5] = 1
    y = run_graph(changed, [x])[0] - bias[:, None, None]
    seen = y[:, :, 3:6, 3:6][:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
    return float(np.square(seen - weight).sum() / np.square(weight).sum())


@given(
    made=st.integers(2, 9),
    taken=st.integers(2, 9),
    kernel=st.tuples(st.integers(2, 4), st.integers(2, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pads=st.tuples(*[st.integers(0, 3)] * 4),
    method=st.sampled_from(["svd", "spatial", "tucker"]),
)
@settings(max_examples=40, deadline=None)
def test_any_convolution_is_reproduced(
    made: int, taken: int, kernel: tuple, strides: tuple, dilations: tuple, pads: tuple, method: str
) -> None:
    check(conv(made, taken, kernel, strides=strides, dilations=dilations, pads=pads), method)


def low_rank() -> ir.Model:
    """Two dense layers of rank 4 with a little noise, and one of full rank."""
    b = GraphBuilder(32)
    x = "x"
    for made, rank in ((48, 4), (32, 4), (32, 32)):
        taken = 32 if made == 48 or rank == 32 else 48
        weight = b.rng.normal(size=(taken, rank)) @ b.rng.normal(size=(rank, made)) / taken
        weight += 1e-4 * b.rng.normal(size=weight.shape)
        x = b.op("Tanh", b.op("Gemm", x, b.constant(weight, np.float32), b.weight(made)))
    return b.build(b.dense(x, 32, CLASSES))


def context(model: ir.Model, *, data: bool = True, labels: bool = True) -> Context:
    x = np.random.default_rng(3).normal(size=(200, 32)).astype(np.float32)
    answers = run_graph(model, [x])[0].argmax(axis=1) if labels else None
    split = Split(inputs=(x,), labels=answers)
    return Context(
        profile=load_profile("generic-x86-64"),
        dataset=Dataset(source="test", train=split, test=split) if data else None,
        teacher=model,
        seed=5,
        log=lambda _: None,
    )


def ranks(model: ir.Model) -> list[int]:
    """The inner lengths of the products."""
    return [
        value.const_value.shape[1]
        for name, value in model.graph.initializers.items()
        if name.endswith(".0")
    ]


def test_energy_finds_the_rank_that_there_is() -> None:
    model = low_rank()
    assert ranks(apply(model, Factorize(energy=0.999), context(model, data=False))) == [4, 4]


@pytest.mark.parametrize("labels", [True, False])
def test_validation_finds_ranks_that_still_answer(labels: bool) -> None:
    model = low_rank()
    given_ = context(model, labels=labels)
    result = apply(model, Factorize(max_drop=0.05), given_)
    assert count_model(result).macs < count_model(model).macs
    x = given_.dataset.test.inputs
    agreed = run_graph(result, x)[0].argmax(1) == run_graph(model, x)[0].argmax(1)
    assert agreed.mean() >= 0.93


@pytest.mark.parametrize("what", ["macs", "parameters"])
@pytest.mark.parametrize("share", [0.4, 0.7])
def test_meets_a_budget(what: str, share: float) -> None:
    model = low_rank()
    result = apply(model, Factorize(**{what: share}), context(model, data=False))
    kept = getattr(count_model(result), what) / getattr(count_model(model), what)
    assert kept == pytest.approx(share, abs=0.06)


def test_everything_kept_is_the_same_model() -> None:
    model = low_rank()
    result = apply(model, Factorize(macs=1.0), context(model, data=False))
    assert count_model(result) == count_model(model)


@pytest.mark.parametrize("method", ["auto", "svd", "tucker", "cp", "spatial"])
def test_methods_work_on_whole_models(method: str) -> None:
    model = GRAPHS["residual"]()
    result = apply(model, Factorize(energy=0.6, method=method), context(low_rank(), data=False))
    assert count_model(result).macs < count_model(model).macs
    assert outputs(result).shape == outputs(model).shape


@pytest.mark.parametrize("name", ["transformer", "fused_and_split"])
def test_projections_of_attention_are_factorized(name: str) -> None:
    model = SEQUENCE_GRAPHS[name]()
    result = apply(model, Factorize(rank=2), context(low_rank(), data=False))
    assert count_model(result).macs < count_model(model).macs
    assert np.isfinite(outputs(result)).all()


def test_leaves_the_original_alone() -> None:
    model = low_rank()
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    apply(model, Factorize(energy=0.9), context(model))
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def gemm_of(width: int) -> ir.Model:
    b = GraphBuilder(width)
    return b.build(b.dense("x", width, CLASSES))


def depthwise() -> ir.Model:
    b = GraphBuilder(CLASSES, 8, 8)
    x = b.conv("x", CLASSES, CLASSES, group=CLASSES)
    return b.build(b.op("ReduceMean", x, axes=[2, 3], keepdims=0))


def held_weights() -> ir.Model:
    model = low_rank()
    for value in model.graph.initializers.values():
        hold(value, "zeros")
    return model


@pytest.mark.parametrize(
    ("make", "step", "error", "message"),
    [
        (
            low_rank,
            {"rank": 33},
            RecipeError,
            r"rank 33 is above the 32 that 'c0' of shape \(32, 48\)",
        ),
        (lambda: gemm_of(1), {"energy": 0.9}, ModelError, "c0: no rank saves macs"),
        (held_weights, {"energy": 0.9}, ModelError, "its zeros are held"),
        (depthwise, {"energy": 0.9}, ModelError, "it is depthwise: each channel has one"),
        (low_rank, {"energy": 0.9, "layers": ["c9*"]}, RecipeError, r"matches 'c9\*'.*near: c"),
        (table, {"energy": 0.9, "layers": ["Gather"]}, ModelError, "`saves: parameters` takes it"),
        (low_rank, {"max_drop": 0.1}, DataError, "need data"),
        (low_rank, {"energy": 0.9, "epochs": 1}, DataError, "need data"),
        (low_rank, {"energy": 0.9, "method": "cp"}, ModelError, "only convolutions"),
    ],
)
def test_says_what_is_wrong(
    make: Callable[[], ir.Model], step: dict, error: type[Exception], message: str
) -> None:
    model = make()
    with pytest.raises(error, match=message):
        apply(model, Factorize(**step), context(low_rank(), data=False))


@pytest.mark.parametrize("given_", [{}, {"energy": 0.9, "rank": 4}, {"macs": 0.5, "max_drop": 0.1}])
def test_wants_one_amount(given_: dict[str, float]) -> None:
    with pytest.raises(msgspec.ValidationError, match="give one of `energy`, `macs`"):
        msgspec.convert(given_, Factorize)


def test_ranks_by_energy_and_budget() -> None:
    layer = find_layers(low_rank())[0][0]
    ladder = [rung for rung in SPLITTERS["svd"].ladder(layer) if rung.macs < layer.macs]
    chosen = by_energy(ladder, 0.01)
    assert chosen is not None
    assert chosen.ranks == (4,)
    assert by_energy(ladder, -1.0) is None
    costs = [[rung.macs for rung in ladder]]
    assert by_budget([ladder], costs, [layer.macs], float(layer.macs)) == [None]
    assert by_budget([ladder], costs, [layer.macs], 0.0) == [ladder[0]]


@pytest.mark.slow
def test_trains_what_it_has_factorized() -> None:
    model = low_rank()
    given_ = context(model)
    plain = apply(model, Factorize(rank=2), given_)
    trained = apply(model, Factorize(rank=2, epochs=20, learning_rate=0.01), given_)
    distances = [_distance(model, other, given_) for other in (plain, trained)]
    assert distances[1] < 0.8 * distances[0]
    assert count_model(trained).macs == count_model(plain).macs


def _distance(model: ir.Model, other: ir.Model, context: Context) -> float:
    """Between probabilities, which do not see what is added to all scores alike."""
    scores = [run_graph(each, context.dataset.test.inputs)[0] for each in (model, other)]
    odds = [np.exp(each - each.max(axis=1, keepdims=True)) for each in scores]
    one, two = (each / each.sum(axis=1, keepdims=True) for each in odds)
    return float(np.abs(one - two).mean())


def test_ranks_follow_the_task() -> None:
    """Class numbers stay right with ranks that would spoil the values."""
    model = low_rank()
    x = np.random.default_rng(3).normal(size=(200, 32)).astype(np.float32)
    answers = run_graph(model, [x])[0]
    kept = {}
    for task, labels in (
        ("classification", answers.argmax(axis=1)),
        ("regression", answers),
        ("embeddings", None),
    ):
        split = Split(inputs=(x,), labels=labels)
        data = Dataset(source="test", train=split, test=split, task=task)
        changed = apply(model, Factorize(max_drop=0.02), replace(context(model), dataset=data))
        kept[task] = count_model(changed).macs
        after = run_graph(changed, [x])[0]
        lost = {
            "classification": (after.argmax(1) != answers.argmax(1)).mean(),
            "regression": ((after - answers) ** 2).mean() / answers.var(axis=0).mean(),
            "embeddings": 1 - _cosine(after, answers),
        }
        assert lost[task] <= 0.02
    assert kept["classification"] < count_model(model).macs


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(((one * other).sum(axis=1) / lengths).mean())
