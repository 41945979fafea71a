"""Weights in the few bits that the graph stores them in: packed, found again, read by kernels."""

from __future__ import annotations

import zipfile
from io import BytesIO
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from flatbuffers.table import Table
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from support.graphs import GraphBuilder
from support.tflite_small import dense_file, dense_graph, run
from trimtab.compress import quantize_weights
from trimtab.compress.quantize_weights import QuantizeWeights
from trimtab.graph.access import constant, infer_shapes
from trimtab.graph.precision import ACTIVATIONS_KEY
from trimtab.graph.run import run_graph
from trimtab.graph.tflite_tensors import unpack as unpack_codes
from trimtab.targets.tflite_codes import pack_codes
from trimtab.targets.tflite_flatbuffer import operator_version, pack, unpack
from trimtab.targets.tflite_forms import Use, direct_form
from trimtab.targets.tflite_metadata import BUFFER_NAME, describe_file, with_labels
from trimtab.targets.tflite_placed import placed
from trimtab.targets.tflite_stored import StoredWeights
from trimtab.targets.tflite_weights import WeightForm, store_weights
from trimtab.targets.writing import WriteRequest

ROUNDED_AT_RUN_TIME = 0.03
"""Share of the largest output by which activations of 8 bits move it here."""

EXACT = 1e-6


def quantized(model: ir.Model, *, dynamic: bool = False, **parameters: object) -> ir.Model:
    context = SimpleNamespace(log=lambda _: None, dataset=None, seed=0)
    result = quantize_weights.apply(model, QuantizeWeights(**parameters), context)
    if dynamic:
        for node in result.graph:
            if node.op_type == "DequantizeLinear":
                node.metadata_props[ACTIVATIONS_KEY] = "dynamic"
    return result


def real_weights(model: ir.Model) -> np.ndarray:
    """What the graph multiplies with: Gemm's second input, by running the graph up to there."""
    (found,) = [weights for group in StoredWeights(model)._by_size.values() for weights in group]
    return found.real


def stored(model: ir.Model) -> tuple[bytes, WeightForm]:
    file = dense_file(real_weights(model))
    (form,) = store_weights(file, model)
    return pack(file), form


@given(st.data())
def test_codes_come_out_of_the_file_as_they_went_in(data):
    bits = data.draw(st.sampled_from([2, 4]))
    limits = st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    codes = data.draw(arrays(np.int8, st.integers(1, 40), elements=limits))
    packed = pack_codes(codes, bits)
    assert len(packed) == -(-len(codes) * bits // 8)
    np.testing.assert_array_equal(unpack_codes(packed, bits)[: len(codes)], codes)


FORMS = {
    "8 bits": ({"bits": 8}, False, "int8", False, None),
    "8 bits from zero up": ({"bits": 8, "symmetric": False}, False, "int8", False, None),
    "4 bits": ({"bits": 4}, False, "int8", False, "4 bits run slower than float"),
    "4 bits in groups": ({"bits": 4, "group": 32}, False, "float16", False, "no scales of blocks"),
    "8 bits, rounding": ({"bits": 8}, True, "int8", True, None),
    "4 bits, rounding": ({"bits": 4}, True, "int4", True, None),
    "2 bits, rounding": ({"bits": 2}, True, "int2", True, None),
    "groups, rounding": ({"bits": 4, "group": 32}, True, "int4", True, None),
    "small groups, rounding": ({"bits": 4, "group": 16}, True, "float16", False, "multiple of 32"),
    "from zero up, rounding": (
        {"bits": 8, "symmetric": False}, True, "int8", False, "around zero only",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_dense_weights_are_stored_as_a_kernel_takes_them(name):
    parameters, dynamic, dtype, direct, reason = FORMS[name]
    generator = np.random.default_rng(0)
    weights = generator.normal(size=(24, 64)).astype(np.float32)
    model = quantized(dense_graph(weights), dynamic=dynamic, **parameters)
    content, form = stored(model)
    assert (form.dtype, form.direct) == (dtype, direct)
    assert (form.reason is None) if reason is None else (reason in str(form.reason))
    samples = generator.normal(size=(8, 64)).astype(np.float32)
    expected = run_graph(model, [samples])[0]
    error = np.abs(run(content, samples) - expected).max() / np.abs(expected).max()
    assert error < (ROUNDED_AT_RUN_TIME if direct else 1e-3 if dtype == "float16" else EXACT)


def test_file_shrinks_with_the_bits():
    weights = np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)
    graph = dense_graph(weights)
    sizes = [
        len(stored(quantized(graph, dynamic=True, bits=bits))[0]) - 64 * 256 * bits // 8
        for bits in (8, 4, 2)
    ]
    assert all(0 < rest < 2000 for rest in sizes)


def test_old_runtimes_refuse_a_form_that_they_compute_wrongly():
    """tflite-runtime 2.14 takes the first row's scale for all, and knows version 10 at most."""
    weights = np.random.default_rng(0).normal(size=(24, 64)).astype(np.float32)
    file = unpack(stored(quantized(dense_graph(weights), dynamic=True, bits=8))[0])
    assert operator_version(file, file.subgraphs[0].operators[0]) == 12
    file = unpack(stored(quantized(dense_graph(weights), bits=8))[0])
    versions = [operator_version(file, operator) for operator in file.subgraphs[0].operators]
    assert versions == [5, 1]  # DEQUANTIZE with a scale for each row; the layer as it was


REFUSED = {
    "depthwise": (Use("DEPTHWISE_CONV_2D", 1, 8), "four times slower"),
    "grouped": (Use("CONV_2D", 1, 128), "grouped CONV_2D"),
    "several scales": (Use("BATCH_MATMUL", 1, 64), "one scale only"),
    "element-wise": (Use("MUL", 1, 64), "MUL has no kernel"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_forms_that_kernels_compute_wrongly_are_passed_over(name):
    from trimtab.targets.tflite_codes import signed_codes

    use, reason = REFUSED[name]
    weights = np.random.default_rng(0).normal(size=(24, 64)).astype(np.float32)
    found = StoredWeights(quantized(dense_graph(weights), bits=8))
    (weight,) = next(iter(found._by_size.values()))
    form = direct_form(use, signed_codes(weight))
    assert isinstance(form, str)
    assert reason in form


def cast_graph(weights: np.ndarray) -> ir.Model:
    b = GraphBuilder(weights.shape[1])
    narrow = b.op("Cast", b.constant(np.zeros(weights.shape), np.float16), to=1)
    model = b.build(b.op("Gemm", "x", narrow, transB=1))
    for value in model.graph.initializers.values():
        if constant(value).dtype == np.float16:
            value.const_value = ir.tensor(weights, name=value.name)
            value.type = ir.TensorType(value.const_value.dtype)
    infer_shapes(model)
    return model


@pytest.mark.parametrize(
    ("kind", "largest", "dtype", "reason"),
    [
        (np.float16, 1.0, "float16", None),
        (ml_dtypes.bfloat16, 1.0, "float16", "computes no bfloat16"),
        (ml_dtypes.bfloat16, 1e30, "float32", "does not hold its range"),
    ],
)
def test_weights_of_16_bits_are_float16_where_that_holds_them(kind, largest, dtype, reason):
    generator = np.random.default_rng(0)
    weights = (generator.normal(size=(8, 16)) * largest).astype(kind)
    file = dense_file(weights.astype(np.float32))
    (form,) = store_weights(file, cast_graph(weights))
    assert form.dtype == dtype
    assert (form.reason is None) if reason is None else (reason in str(form.reason))
    samples = generator.normal(size=(4, 16)).astype(np.float32)
    expected = samples @ weights.astype(np.float32).T
    np.testing.assert_allclose(run(pack(file), samples), expected, rtol=1e-5, atol=1e-5 * largest)


def test_weights_that_the_graph_stores_in_float_stay():
    weights = np.random.default_rng(0).normal(size=(24, 64)).astype(np.float32)
    file = dense_file(weights)
    assert store_weights(file, dense_graph(weights)) == ()
    assert store_weights(dense_file(weights), quantized(dense_graph(2 * weights), bits=8)) == ()


@given(st.permutations([0, 1, 2, 3]), st.integers(0, 2**31))
def test_weights_are_found_in_any_order_of_axes(order, seed):
    generator = np.random.default_rng(seed)
    weights = generator.normal(size=(3, 1, 5, 2)).astype(np.float32)
    model = quantized(dense_graph(weights.reshape(3, 10)), bits=8)
    real = real_weights(model).reshape(3, 1, 5, 2)
    wanted = np.ascontiguousarray(real.transpose(order))
    found = StoredWeights(model).find(wanted.reshape(wanted.shape))
    if found is not None:  # a matrix has fewer orders than what was reshaped from it
        np.testing.assert_array_equal(found.real, wanted)
        np.testing.assert_array_equal(found.codes * found.scales, wanted)


def test_metadata_names_inputs_outputs_and_classes():
    weights = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    graph, file = dense_graph(weights), dense_file(weights)
    labels = ("cat", "dog\nor wolf", "cow")
    describe_file(file, graph, WriteRequest(stem="pets", labels=labels))
    plain = pack(file)
    content = with_labels(plain, labels)
    assert content[: len(plain)] == plain
    assert content == with_labels(plain, labels)
    assert zipfile.ZipFile(BytesIO(content)).read("labels.txt") == b"cat\ndog or wolf\ncow\n"
    assert with_labels(plain, None) == plain
    read = unpack(content)
    (entry,) = [entry for entry in read.metadata if entry.name == BUFFER_NAME.encode()]
    metadata = bytes(read.buffers[entry.buffer].data)
    assert metadata[4:8] == b"M001"
    model = Table(metadata, int.from_bytes(metadata[:4], "little"))
    assert field_text(model, 0) == "pets"
    subgraph = field_tables(model, 3)[0]
    assert [field_text(tensor, 0) for tensor in field_tables(subgraph, 2)] == ["x"]
    outputs = field_tables(subgraph, 3)
    assert [field_text(tensor, 0) for tensor in outputs] == [graph.graph.outputs[0].name]
    assert field_text(field_tables(outputs[0], 6)[0], 0) == "labels.txt"
    assert run(content, np.ones((1, 4), np.float32)).shape == (1, 3)


def field_text(table: Table, field: int) -> str:
    return table.String(table.Pos + table.Offset(4 + 2 * field)).decode()


def field_tables(table: Table, field: int) -> list[Table]:
    offset = table.Offset(4 + 2 * field)
    start = table.Vector(offset)
    count = table.VectorLen(offset)
    return [Table(table.Bytes, table.Indirect(start + 4 * index)) for index in range(count)]


def test_placed_says_what_each_operator_computes_with(tmp_path):
    weights = np.random.default_rng(0).normal(size=(24, 64)).astype(np.float32)
    path = tmp_path / "model.tflite"
    for dynamic, expected in (
        (False, [("DEQUANTIZE", "int8"), ("FULLY_CONNECTED", "float32")]),
        (True, [("FULLY_CONNECTED", "int8")]),
    ):
        model = quantized(dense_graph(weights), dynamic=dynamic, bits=8)
        path.write_bytes(stored(model)[0])
        operators = placed(path, model)
        assert [(operator.operator, operator.dtype) for operator in operators] == expected
        assert all(operator.reason is None for operator in operators)
