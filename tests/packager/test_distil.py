"""Distillation: students made of the teacher or given, features, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
import numpy as np
import onnx_ir as ir
import pytest

from support.quant_graphs import TrainedLike
from trimtab.compress.context import Context
from trimtab.compress.distil import Distil, Feature, apply
from trimtab.compress.student import Student, draw_weights, make_student
from trimtab.errors import DataError, ModelError, RecipeError
from trimtab.evaluate.data import Dataset, Split
from trimtab.graph.clean import clean
from trimtab.graph.count import count_model
from trimtab.graph.residual import residual_blocks, units
from trimtab.graph.run import run_graph


def network(blocks: int = 4, softmax: bool = True) -> ir.Model:
    """Residual blocks of two convolutions each, behind a first convolution."""
    b = TrainedLike(3, 8, 8)
    x = b.conv_relu("x", 3, 16)
    for _ in range(blocks):
        y = b.conv(b.conv_relu(x, 16, 16), 16, 16)
        x = b.op("Relu", b.op("Add", x, y))
    pooled = b.op("Flatten", b.op("GlobalAveragePool", x))
    logits = b.op("Gemm", pooled, b.weight(5, 16), b.weight(5), transB=1)
    return clean(b.build(b.op("Softmax", logits, axis=-1) if softmax else logits))


def encoder(layers: int = 4, norm: bool = True) -> ir.Model:
    """Mixing over time and feed-forward by turns, each with an addition and a norm behind."""
    b = TrainedLike(6, 8)

    def add(x: str, y: str) -> str:
        total = b.op("Add", x, y)
        return b.op("LayerNormalization", total, b.positive(8), b.weight(8)) if norm else total

    x = b.op("LayerNormalization", "x", b.positive(8), b.weight(8))
    for _ in range(layers):
        scores = b.op("Softmax", b.op("MatMul", x, b.op("Transpose", x, perm=[0, 2, 1])), axis=-1)
        x = add(x, b.op("MatMul", b.op("MatMul", scores, x), b.weight(8, 8)))
        x = add(
            x, b.op("MatMul", b.op("Relu", b.op("MatMul", x, b.weight(8, 16))), b.weight(16, 8))
        )
    pooled = b.op("ReduceMean", x, axes=[1], keepdims=0)
    return clean(b.build(b.op("MatMul", pooled, b.weight(8, 5))))


def context(teacher: ir.Model, labels: bool = False, count: int = 600) -> Context:
    shape = [dim for dim in teacher.graph.inputs[0].shape if isinstance(dim, int)]
    x = np.random.default_rng(1).normal(size=(count, *shape)).astype(np.float32)
    y = run_graph(teacher, [x])[0].argmax(axis=1) if labels else None
    split = Split(inputs=(x,), labels=y)
    return Context(
        dataset=Dataset(source="noise", train=split, test=split),
        teacher=teacher,
        profile=SimpleNamespace(channel_multiple=SimpleNamespace(value=4)),
        seed=3,
        log=lambda line: None,
    )


def distance(model: ir.Model, surroundings: Context) -> float:
    x = surroundings.dataset.test.inputs
    teacher = run_graph(surroundings.teacher, x)[0]
    return float(np.square(run_graph(model, x)[0] - teacher).mean() / teacher.var())


def disagreement(model: ir.Model, surroundings: Context) -> float:
    x = surroundings.dataset.test.inputs
    classes = [run_graph(m, x)[0].argmax(axis=1) for m in (model, surroundings.teacher)]
    return float((classes[0] != classes[1]).mean())


def operators(model: ir.Model, name: str) -> int:
    return sum(node.op_type == name for node in model.graph)


def test_blocks_are_found_and_only_those_whose_shapes_match():
    assert len(residual_blocks(network(3))) == 3
    assert [len(unit) for unit in units(residual_blocks(network(3)))] == [1, 1, 1]
    assert [len(unit) for unit in units(residual_blocks(encoder(3)))] == [2, 2, 2]
    b = TrainedLike(3, 8, 8)
    x = b.conv_relu("x", 3, 8)
    changed = b.op("Add", b.conv(x, 8, 16), b.conv(b.conv_relu(x, 8, 8), 8, 16))
    assert residual_blocks(clean(b.classifier(changed, 16))) == []


@pytest.mark.parametrize(("depth", "convolutions"), [(1.0, 9), (0.5, 5), (0.25, 3), (0.01, 3)])
def test_shallower_students_keep_the_share_of_blocks(depth, convolutions):
    teacher = network()
    student = make_student(teacher, Student(depth=depth), context(teacher))
    assert operators(student, "Conv") == convolutions
    assert operators(student, "Relu") == convolutions
    assert operators(teacher, "Conv") == 9
    assert run_graph(student, context(teacher).dataset.test.inputs)[0].shape == (600, 5)


def test_layers_of_a_transformer_go_whole_with_their_norms():
    teacher = encoder(4)
    student = make_student(teacher, Student(depth=0.5), context(teacher))
    assert operators(student, "Add") == 4
    assert operators(student, "LayerNormalization") == 5
    assert operators(student, "MatMul") == 2 * 5 + 1


def test_blocks_that_were_left_out_have_changed_nothing_if_they_added_nothing():
    teacher = network(3)
    for block in residual_blocks(teacher):
        add = next(
            node for node in teacher.graph if node.op_type == "Add" and block.skip in node.inputs
        )
        last = next(v for v in add.inputs if v is not block.skip).producer()
        for value in last.inputs[1:]:
            value.const_value = ir.tensor(np.zeros_like(value.const_value.numpy()), name=value.name)
    student = make_student(teacher, Student(depth=0.4), context(teacher))
    assert operators(student, "Conv") == 3
    assert distance(student, context(teacher)) < 1e-10


def test_narrower_students_inherit_weights_and_random_ones_do_not():
    teacher = network()
    surroundings = context(teacher)
    inherited = make_student(teacher, Student(width=0.5), surroundings)
    drawn = make_student(teacher, Student(width=0.5, weights="random"), surroundings)
    assert count_model(inherited).macs == count_model(drawn).macs < 0.4 * count_model(teacher).macs
    rows = {row.tobytes() for value in _kernels(teacher) for row in value.reshape(-1, 1, 3, 3)}
    for kernels, known in ((_kernels(inherited), True), (_kernels(drawn), False)):
        assert all(
            (row.tobytes() in rows) is known for k in kernels for row in k.reshape(-1, 1, 3, 3)
        )
    again = make_student(teacher, Student(width=0.5, weights="random"), surroundings)
    for one, other in zip(_kernels(drawn), _kernels(again), strict=True):
        np.testing.assert_array_equal(one, other)


def _kernels(model: ir.Model) -> list[np.ndarray]:
    return [n.inputs[1].const_value.numpy() for n in model.graph if n.op_type == "Conv"]


def test_drawn_weights_keep_the_size_of_activations():
    model = network(0)
    draw_weights(model, 1)
    x = context(model).dataset.test.inputs
    model.graph.outputs[0] = next(n for n in model.graph if n.op_type == "Relu").outputs[0]
    assert np.square(run_graph(model, x)[0]).mean() == pytest.approx(1, rel=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("labels", [False, True])
def test_students_come_near_to_the_teacher(labels):
    teacher = network(2)
    surroundings = context(teacher, labels)
    step = Distil(student=Student(width=0.75, depth=0.5), epochs=8, batch_size=32)
    before = make_student(teacher, step.student, surroundings)
    after = apply(teacher, step, surroundings)
    assert disagreement(after, surroundings) < 0.5 * disagreement(before, surroundings)
    if not labels:  # labels ask for surer answers than the teacher's
        assert distance(after, surroundings) < 0.5 * distance(before, surroundings)


@pytest.mark.slow
def test_features_of_another_width_are_matched_through_an_adapter():
    teacher = network(1, softmax=False)
    surroundings = context(teacher)
    feature = next(n for n in teacher.graph if n.op_type == "Add").outputs[0].name
    students = {
        share: apply(
            teacher,
            Distil(
                student=Student(width=0.5, weights="random"),
                features=(Feature(teacher=feature),),
                feature_share=share,
                epochs=8,
                batch_size=16,
                learning_rate=0.01,
            ),
            surroundings,
        )
        for share in (1e-6, 10.0)
    }
    unexplained = {share: _unexplained(teacher, s, feature) for share, s in students.items()}
    assert unexplained[10.0] < 0.7 * unexplained[1e-6]
    assert operators(students[10.0], "Conv") == 3


def _unexplained(teacher: ir.Model, student: ir.Model, feature: str) -> float:
    """Share of a teacher's value that no linear map of the student's explains."""
    x = context(teacher, count=100).dataset.test.inputs
    values = []
    for model in (teacher.clone(), student.clone()):
        nodes = {v.name: v for n in model.graph for v in n.outputs}
        model.graph.outputs[0] = nodes[feature]
        values.append(np.moveaxis(run_graph(model, x)[0], 1, -1).reshape(100 * 64, -1))
    left, *_ = np.linalg.lstsq(values[1], values[0], rcond=None)
    return float(np.square(values[1] @ left - values[0]).mean() / values[0].var())


@pytest.mark.slow
def test_students_of_ones_own_are_read_from_a_file(tmp_path):
    teacher, surroundings = network(2), context(network(2))
    ir.save(network(1), tmp_path / "small.onnx")
    own = Student(path=str(tmp_path / "small.onnx"), weights="random")
    before = make_student(teacher, own, surroundings)
    student = apply(teacher, Distil(student=own, batch_size=16, learning_rate=0.01), surroundings)
    assert operators(student, "Conv") == 3
    assert distance(student, surroundings) < 0.8 * distance(before, surroundings)


def test_what_does_not_fit_is_said_in_one_line(tmp_path):
    teacher, surroundings = network(1), context(network(1))
    ir.save(encoder(1), tmp_path / "other.onnx")
    with pytest.raises(ModelError, match=r"other.onnx: its inputs must be .*'batch', 3, 8, 8"):
        make_student(teacher, Student(path=str(tmp_path / "other.onnx")), surroundings)
    with pytest.raises(ModelError, match=r"no residual block and no layer .* leave `depth` out"):
        make_student(network(0), Student(depth=0.5), surroundings)
    with pytest.raises(RecipeError, match="original computes no value 'nothing'; the nearest"):
        apply(teacher, Distil(features=(Feature(teacher="nothing"),)), surroundings)
    with pytest.raises(DataError, match="distil needs data"):
        apply(teacher, Distil(), SimpleNamespace(dataset=None))
    with pytest.raises(msgspec.ValidationError, match="either a `path`, or `width` and `depth`"):
        msgspec.convert({"student": {"path": "a", "width": 0.5}}, Distil)
    names = [node.outputs[0].name for node in teacher.graph if node.op_type in ("Relu", "Gemm")]
    pair = Feature(teacher=names[0], student=names[-1])
    with pytest.raises(ModelError, match="they may differ in one dimension only"):
        apply(teacher, Distil(features=(pair,)), surroundings)


def stack(layers: int = 3) -> ir.Model:
    """Recurrent layers one after another, between transposes, as Keras' exports have them."""
    b = TrainedLike(6, 8)
    x = b.op("Transpose", "x", perm=[1, 0, 2])
    for taken in (8, *[12] * (layers - 1)):
        weights = [b.weight(1, 36, width) for width in (taken, 12)]
        y = b.op("GRU", x, *weights, b.weight(1, 72), hidden_size=12, linear_before_reset=1)
        x = b.op("Squeeze", y, b.constant([1]))
    last = b.op("ReduceMean", b.op("Transpose", x, perm=[1, 0, 2]), axes=[1], keepdims=0)
    return clean(b.build(b.op("Gemm", last, b.weight(12, 5), b.weight(5))))


def plain(layers: int = 3) -> ir.Model:
    b = TrainedLike(3, 8, 8)
    x = b.conv_relu("x", 3, 16)
    for _ in range(layers):
        x = b.conv_relu(x, 16, 16)
    return clean(b.classifier(b.conv_relu(x, 16, 8), 8))


@pytest.mark.parametrize(
    ("make", "operator", "kept"), [(stack, "GRU", 2), (plain, "Conv", 4), (encoder, "Add", 4)]
)
def test_models_without_residual_blocks_lose_layers_that_change_no_shape(make, operator, kept):
    teacher = make()
    student = make_student(teacher, Student(depth=0.5), context(teacher))
    assert operators(student, operator) == kept
    x = context(teacher).dataset.test.inputs
    assert run_graph(student, x)[0].shape == run_graph(teacher, x)[0].shape


def test_a_student_must_answer_in_the_same_terms(tmp_path):
    teacher = network(1)
    ir.save(network(1, softmax=False), tmp_path / "logits.onnx")
    step = Distil(student=Student(path=str(tmp_path / "logits.onnx")))
    with pytest.raises(ModelError, match="ends in neither Softmax nor Sigmoid, the original's in"):
        apply(teacher, step, context(teacher))


@pytest.mark.slow
def test_settings_of_formulas_are_not_trained():
    """A norm that is written out: an epsilon that is trained falls below zero."""
    from trimtab.engine.module import GraphModule

    b = TrainedLike(8)
    centred = b.op("Sub", "x", b.op("ReduceMean", "x", axes=[-1]))
    variance = b.op("ReduceMean", b.op("Mul", centred, centred), axes=[-1])
    half = "x"
    for epsilon in (np.array(1e-3), np.array([1e-3])):
        deviation = b.op("Sqrt", b.op("Add", variance, b.constant(epsilon, np.float32)))
        half = b.op("Mul", b.op("Div", centred, deviation), b.constant(0.5, np.float32))
    model = b.build(b.op("Gemm", half, b.weight(8, 5), b.weight(5)))
    module = GraphModule(model, trainable=True)
    assert sorted(tuple(variable.shape) for variable in module.variables) == [(5,), (8, 5)]
