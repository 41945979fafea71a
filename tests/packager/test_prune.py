"""What pruning keeps, and how much."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.graphs import GRAPHS, GraphBuilder
from support.techniques import context, small_dataset
from trimtab.compress.prune import PruneChannels, prune
from trimtab.compress.selection import allowed_counts, choose, nearest_step
from trimtab.errors import ModelError
from trimtab.evaluate.data import Split
from trimtab.graph.access import set_initializer
from trimtab.graph.clean import clean
from trimtab.graph.count import count_model


def after(model: ir.Model, multiple: int = 1, **step: object) -> list[int]:
    return [group.after for group in prune(model, PruneChannels(**step), multiple=multiple).groups]


def test_keeps_the_fraction_of_each_group() -> None:
    assert after(GRAPHS["residual"](), keep=0.5, scope="uniform") == [4, 3, 6]


def test_keeps_the_fraction_of_all() -> None:
    kept = after(GRAPHS["residual"](), keep=0.5)
    assert sum(kept) == 13


def heard(model: ir.Model, reader: str, places: list[int], factor: float) -> None:
    """Changes how much a convolution makes of some of its input channels."""
    value = model.graph.initializers[reader]
    array = value.const_value.numpy().copy()
    array[:, places] *= factor
    set_initializer(value, array)


def two_convolutions(*, normalised: bool = False) -> ir.Model:
    b = GraphBuilder(3, 8, 8)
    x = b.conv("x", 3, 8)
    x = b.op("Relu", b.batch_norm(x, 8) if normalised else x)
    return b.classifier(b.conv(x, 8, 8), 8)


def places_kept(model: ir.Model, pruned: ir.Model, kernel: str) -> list[int]:
    """Finds the outputs of a convolution that are left, by their weights."""
    before, left = (m.graph.initializers[kernel].const_value.numpy() for m in (model, pruned))
    return [int(np.flatnonzero((before == row).all(axis=(1, 2, 3)))[0]) for row in left]


def test_keeps_the_channels_that_later_layers_hear_best() -> None:
    model = two_convolutions()
    heard(model, "c2", [1, 4, 6], 100)
    pruned = prune(model, PruneChannels(keep=3 / 8, scope="uniform"), multiple=1).model
    assert places_kept(model, pruned, "c0") == [1, 4, 6]


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["taylor", "obd"])
@pytest.mark.parametrize("labelled", [True, False])
def test_gradients_keep_what_the_answers_depend_on(criterion: str, labelled: bool) -> None:
    model = two_convolutions()
    heard(model, "c2", [1, 4, 6], 100)
    data = small_dataset(model)
    if not labelled:
        data = replace(data, train=Split(inputs=data.train.inputs))
    step = PruneChannels(keep=3 / 8, scope="uniform", criterion=criterion)
    pruned = prune(model, step, multiple=1, context=context(model, data)).model
    assert places_kept(model, pruned, "c0") == [1, 4, 6]


def test_drops_channels_that_nothing_makes() -> None:
    model = two_convolutions()
    heard(model, "c2", [1, 4], 100)
    for name in ("c0", "c1"):
        value = model.graph.initializers[name]
        array = value.const_value.numpy().copy()
        array[[1, 4]] = 0
        set_initializer(value, array)
    pruned = prune(model, PruneChannels(keep=6 / 8, scope="uniform"), multiple=1).model
    assert places_kept(model, pruned, "c0") == [0, 2, 3, 5, 6, 7]


def test_folding_batch_norms_changes_no_choice() -> None:
    model = two_convolutions(normalised=True)
    folded = clean(model.clone())
    assert "BatchNormalization" not in {node.op_type for node in folded.graph}
    kept = []
    for one in (model, folded):
        kernel = next(node for node in one.graph if node.op_type == "Conv").inputs[1].name
        pruned = prune(one, PruneChannels(keep=0.5, scope="uniform"), multiple=1).model
        kept.append(places_kept(one, pruned, kernel))
    assert kept[0] == kept[1]


@pytest.mark.parametrize("name", ["residual", "mobile", "dense_blocks", "time_series", "grouped"])
@pytest.mark.parametrize("scope", ["global", "uniform"])
def test_reaches_the_nearest_macs(name: str, scope: str) -> None:
    model = GRAPHS[name]()
    whole = count_model(model).macs
    pruned = prune(model, PruneChannels(macs=0.5, scope=scope), multiple=1).model
    assert count_model(pruned).macs / whole == pytest.approx(0.5, abs=0.13)


def test_reaches_the_least_where_the_target_is_out_of_reach() -> None:
    assert after(GRAPHS["plain"](), macs=1e-6) == [1, 1]


def test_keeps_to_multiples() -> None:
    assert after(GRAPHS["plain"](), multiple=4, keep=0.4, scope="uniform") == [4, 4]


def test_counts_channels_not_classes_of_grouped_convolutions() -> None:
    assert after(GRAPHS["grouped"](), multiple=6, keep=0.4, scope="uniform") == [6, 6, 6]


def test_the_step_overrides_nothing_but_the_minimum() -> None:
    assert after(GRAPHS["plain"](), keep=0.1, scope="uniform", min_channels=5) == [5, 5]


def test_everything_kept_is_the_same_model() -> None:
    model = GRAPHS["mobile"]()
    pruned = prune(model, PruneChannels(keep=1.0), multiple=16).model
    assert count_model(pruned) == count_model(model)


def test_says_what_is_in_the_way() -> None:
    b = GraphBuilder(3, 8, 8)
    model = b.classifier(b.op("LRN", b.conv_relu("x", 3, 8), size=3), 8)
    with pytest.raises(ModelError, match=r"does not understand \(found: LRN\); leave out"):
        prune(model, PruneChannels(keep=0.5), multiple=1)


@pytest.mark.parametrize("given_", [{}, {"keep": 0.5, "macs": 0.5}])
def test_wants_one_amount(given_: dict[str, float]) -> None:
    with pytest.raises(
        msgspec.ValidationError, match="give one of `keep`, `macs`, `parameters` and `time`"
    ):
        msgspec.convert(given_, PruneChannels)


@pytest.mark.parametrize(
    ("classes", "width", "multiple", "min_channels", "expected"),
    [
        (20, 1, 8, 1, (8, 16, 20)),
        (16, 1, 8, 1, (8, 16)),
        (6, 1, 8, 1, (6,)),
        (12, 4, 8, 1, (2, 4, 6, 8, 10, 12)),
        (20, 1, 8, 9, (16, 20)),
        (5, 1, 1, 1, (1, 2, 3, 4, 5)),
    ],
)
def test_allowed_counts(
    classes: int, width: int, multiple: int, min_channels: int, expected: tuple[int, ...]
) -> None:
    counts = allowed_counts(classes, width=width, multiple=multiple, min_channels=min_channels)
    assert counts == expected


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    keep=st.floats(0, 1),
    scope=st.sampled_from(["global", "uniform"]),
    seed=st.integers(0, 99),
)
def test_choice_is_of_the_best_and_of_an_allowed_count(
    sizes: list[int], keep: float, scope: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    scores = [rng.integers(0, 5, size).astype(float) for size in sizes]
    allowed = [
        allowed_counts(size, width=1, multiple=int(rng.integers(1, 5)), min_channels=1)
        for size in sizes
    ]
    kept = choose(scores, allowed, keep=keep, scope=scope)
    for places, group, counts in zip(kept, scores, allowed, strict=True):
        gone = np.delete(group, places)
        assert len(places) in counts
        assert list(places) == sorted(set(places))
        assert not gone.size or gone.max() <= group[places].min()


@given(rises=st.lists(st.integers(0, 9), min_size=1, max_size=40), target=st.integers(-5, 200))
def test_bisection_finds_the_nearest(rises: list[int], target: int) -> None:
    values = np.cumsum(rises).tolist()
    step = nearest_step(values.__getitem__, target, len(values) - 1)
    assert abs(values[step] - target) == min(abs(value - target) for value in values)
