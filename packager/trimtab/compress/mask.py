"""Which weights stay when some are set to zero. Pure: scores in, masks out.

Scores come as matrices, a row for each output, laid out as `trimtab.compress.weights` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float32]
Mask = NDArray[np.bool_]


def cubic(final: float, part: float) -> float:
    """Returns how much to prune after a part of the rounds.

    Sparsity rises fast while there is much to spare and slowly towards the end (Zhu and Gupta
    2017, arXiv:1710.01878, equation 1, from zero).

    Args:
        final: What to prune in the end.
        part: Rounds done over rounds in all, 0 to 1.
    """
    return final * (1 - (1 - part) ** 3)


def keep_best(scores: Sequence[Scores], sparsity: float) -> list[Mask]:
    """Keeps the best scores of all matrices together.

    Args:
        scores: One matrix for each weight.
        sparsity: The share to drop; rounded to whole scores.

    Returns:
        True where a weight stays, in the shapes of `scores`. Of equal scores at the border some
        are dropped, so that the number is exact.
    """
    dropped = round(sum(matrix.size for matrix in scores) * sparsity)
    if dropped == 0:
        return [np.ones(matrix.shape, np.bool_) for matrix in scores]
    border = _ranked(scores, dropped - 1)
    surplus = dropped - sum(int((matrix < border).sum()) for matrix in scores)
    masks = []
    for matrix in scores:
        mask = matrix >= border
        ties = np.flatnonzero(matrix == border)[:surplus]
        mask.flat[ties] = False
        surplus -= len(ties)
        masks.append(mask)
    return masks


def _ranked(scores: Sequence[Scores], rank: int) -> np.float32:
    """Returns the score with so many before it, without putting all of them into one array.

    A radix selection over the halves of order-preserving integers: of two floats the larger one
    has the larger bits, but for negative ones, whose bits are turned over.
    """
    prefix = 0
    for shift in (16, 0):
        counts = np.zeros(1 << 16, np.int64)
        for matrix in scores:
            bits = np.ascontiguousarray(matrix, np.float32).ravel().view(np.int32)
            keys = (bits ^ (bits >> 31 | np.int32(-(2**31)))).view(np.uint32)
            halves = keys[keys >> 16 == prefix] & 0xFFFF if shift == 0 else keys >> 16
            counts += np.bincount(halves, minlength=1 << 16)
        part = int(np.searchsorted(counts.cumsum(), rank, side="right"))
        rank -= int(counts[:part].sum())
        prefix = prefix << 16 | part
    key = prefix ^ (1 << 31) if prefix >> 31 else prefix ^ 0xFFFFFFFF
    return np.float32(np.uint32(key).view(np.float32))


def keep_n_of_m(scores: Scores, kept: int, group: int, inputs: int) -> Mask:
    """Keeps the best few of each run of input channels, such as 2 of every 4.

    Runs do not cross from one position of a convolution's window to the next. The channels left
    over at the end of a row, fewer than a run, all stay: no kernel can use zeros there.

    Args:
        scores: Shape (outputs, positions x inputs), inputs innermost.
        kept: How many stay of each run.
        group: Length of a run.
        inputs: Input channels side by side.
    """
    mask = np.ones(scores.shape, np.bool_)
    whole = inputs - inputs % group
    if whole:
        view = mask.reshape(-1, inputs)[:, :whole].reshape(-1, group)
        runs = scores.reshape(-1, inputs)[:, :whole].reshape(-1, group)
        order = np.argsort(runs, axis=1, kind="stable")
        np.put_along_axis(view, order[:, : group - kept], values=False, axis=1)
        mask.reshape(-1, inputs)[:, :whole] = view.reshape(-1, whole)
    return mask


def block_scores(scores: Scores, block: tuple[int, int]) -> Scores:
    """Adds up the scores of each block; blocks at the far edges may be smaller.

    Args:
        scores: Shape (outputs, summed over).
        block: Outputs and inputs in a block.

    Returns:
        Mean score of a block's weights, one element a block.
    """
    rows = np.arange(0, scores.shape[0], block[0])
    columns = np.arange(0, scores.shape[1], block[1])
    sums = np.add.reduceat(np.add.reduceat(scores, rows, axis=0), columns, axis=1)
    heights = np.diff(np.append(rows, scores.shape[0]))
    widths = np.diff(np.append(columns, scores.shape[1]))
    means: Scores = (sums / np.outer(heights, widths)).astype(np.float32)
    return means


def spread_blocks(mask: Mask, block: tuple[int, int], shape: tuple[Any, ...]) -> Mask:
    """Returns the mask of the weights from the mask of their blocks."""
    whole = mask.repeat(block[0], axis=0).repeat(block[1], axis=1)
    return whole[: shape[0], : shape[1]]
