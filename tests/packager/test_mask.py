"""Which weights stay: exact numbers, runs and blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.compress.mask import block_scores, cubic, keep_best, keep_n_of_m, spread_blocks

sizes = st.integers(1, 9)
seeds = st.integers(0, 999)


def random_scores(seed: int, *shape: int) -> np.ndarray:
    """Few distinct scores, so that there are ties."""
    return np.random.default_rng(seed).integers(0, 5, shape).astype(np.float32)


def test_schedule_is_steep_at_first_and_flat_at_the_end() -> None:
    shares = [cubic(0.8, part / 4) for part in range(5)]
    np.testing.assert_allclose(shares, [0, 0.4625, 0.7, 0.7875, 0.8])


@given(st.lists(st.tuples(sizes, sizes), min_size=1, max_size=4), st.floats(0, 1), seeds)
def test_drops_the_exact_number_and_the_least(
    shapes: list[tuple[int, int]], sparsity: float, seed: int
) -> None:
    scores = [random_scores(seed + index, *shape) for index, shape in enumerate(shapes)]
    masks = keep_best(scores, sparsity)
    kept = np.concatenate([s[m] for s, m in zip(scores, masks, strict=True)])
    gone = np.concatenate([s[~m] for s, m in zip(scores, masks, strict=True)])
    assert len(gone) == round((len(kept) + len(gone)) * sparsity)
    assert not gone.size or not kept.size or gone.max() <= kept.min()


@given(sizes, st.integers(1, 3), st.integers(1, 12), st.data(), seeds)
def test_keeps_n_of_every_whole_run_and_all_of_the_rest(
    rows: int, positions: int, inputs: int, data: st.DataObject, seed: int
) -> None:
    group = data.draw(st.integers(2, 6))
    kept = data.draw(st.integers(1, group - 1))
    scores = random_scores(seed, rows, positions * inputs)
    mask = keep_n_of_m(scores, kept, group, inputs)
    for row, row_scores in zip(mask.reshape(-1, inputs), scores.reshape(-1, inputs), strict=True):
        for start in range(0, inputs, group):
            run, values = row[start : start + group], row_scores[start : start + group]
            if len(run) < group:
                assert run.all()
                continue
            assert run.sum() == kept
            assert values[~run].max() <= values[run].min()


@given(sizes, sizes, st.tuples(sizes, sizes), seeds)
def test_a_block_scores_the_mean_of_its_weights(
    rows: int, columns: int, block: tuple[int, int], seed: int
) -> None:
    scores = random_scores(seed, rows, columns)
    blocks = block_scores(scores, block)
    for (i, j), found in np.ndenumerate(blocks):
        part = scores[i * block[0] : (i + 1) * block[0], j * block[1] : (j + 1) * block[1]]
        assert found == pytest.approx(part.mean())
    spread = spread_blocks(blocks > 1, block, scores.shape)
    assert spread.shape == scores.shape
    assert all(
        spread[i, j] == (blocks[i // block[0], j // block[1]] > 1)
        for i in range(rows)
        for j in range(columns)
    )
