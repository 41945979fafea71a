"""Sequences: a class per position, or a shorter sequence by connectionist temporal classification.

Outputs have the shape `[samples, positions, classes]`; for `tokens` there may be several axes of
positions, as in the pixels of a segmentation. A label of -1 is padding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trimtab.evaluate.tasks.base import Array, Batch, Evidence, Measure, one_minus, ratio

PADDING = -1


class Tokens:
    """The share of positions with the right class.

    Positions of one sample go wrong together, so intervals come from resampling whole samples.
    """

    name = "tokens"
    part_measure: Measure | None = Measure(name="token_accuracy", statistic=ratio("share"))
    part_column = "share"
    has_classes = False
    agreement = Measure(name="same_tokens", statistic=ratio("same"))

    def observe(self, batch: Batch) -> Evidence:
        """Keeps the answers, and how many are right of how many."""
        answers = batch.outputs[0].argmax(axis=-1).reshape(len(batch.outputs[0]), -1)
        evidence = {"answer": answers}
        if batch.labels is not None:
            truth = batch.labels.reshape(len(batch.labels), -1)
            counted = truth != PADDING
            evidence["right"] = ((answers == truth) & counted).sum(axis=1)
            evidence["counted"] = counted.sum(axis=1)
            evidence["share"] = evidence["right"] / np.maximum(evidence["counted"], 1)
        return evidence

    def measures(self, evidence: Evidence) -> tuple[Measure, ...]:
        """Accuracy over all positions that are no padding."""
        if "right" not in evidence:
            return ()
        return (Measure(name="token_accuracy", statistic=ratio("right", "counted")),)

    def agree(self, evidence: Evidence, reference: Evidence) -> Evidence:
        """The share of positions with the same answer, padding included."""
        return {"same": (evidence["answer"] == reference["answer"]).mean(axis=1)}


class Ctc:
    """One less the token error rate: insertions, deletions and substitutions over tokens.

    Outputs are decoded greedily: the best class of each position, repeats merged, blanks dropped
    (A. Graves et al., "Connectionist Temporal Classification", ICML 2006, section 3.2, best path).

    Args:
        blank: Class number of the blank.
    """

    name = "ctc"
    part_measure: Measure | None = Measure(
        name="token_error_rate", statistic=ratio("rate"), larger_is_better=False
    )
    part_column = "rate"
    has_classes = False
    agreement = Measure(
        name="token_accuracy_to_original", statistic=one_minus(ratio("edits", "tokens"))
    )

    def __init__(self, blank: int) -> None:
        self._blank = blank

    def observe(self, batch: Batch) -> Evidence:
        """Keeps the decoded sequences and their edit distances to the labels."""
        decoded = greedy_decode(batch.outputs[0], self._blank)
        if batch.labels is None:
            return {"answer": decoded}
        edits, tokens = _distances(decoded, batch.labels)
        return {
            "answer": decoded,
            "edits": edits,
            "tokens": tokens,
            "rate": edits / np.maximum(tokens, 1),
        }

    def measures(self, evidence: Evidence) -> tuple[Measure, ...]:
        """Token accuracy and the token error rate, which can exceed 1."""
        if "edits" not in evidence:
            return ()
        rate = ratio("edits", "tokens")
        return (
            Measure(name="one_minus_token_error_rate", statistic=one_minus(rate)),
            Measure(name="token_error_rate", statistic=rate, larger_is_better=False),
        )

    def agree(self, evidence: Evidence, reference: Evidence) -> Evidence:
        """The edits between both sequences; an empty one of the original counts as one token."""
        edits, tokens = _distances(evidence["answer"], reference["answer"])
        return {"edits": edits, "tokens": np.maximum(tokens, 1)}


def greedy_decode(scores: Array, blank: int) -> Array:
    """Returns token sequences from scores of shape `[samples, positions, classes]`.

    Returns:
        int64, shape `[samples, positions]`, padded with -1.
    """
    best = scores.argmax(axis=2)
    starts = np.ones(best.shape, bool)
    starts[:, 1:] = best[:, 1:] != best[:, :-1]
    kept = starts & (best != blank)
    decoded = np.full(best.shape, PADDING, np.int64)
    rows, columns = np.nonzero(kept)
    decoded[rows, kept.cumsum(axis=1)[rows, columns] - 1] = best[rows, columns]
    return decoded


def edit_distance(one: Sequence[int], other: Sequence[int]) -> int:
    """Returns how many insertions, deletions and substitutions turn one sequence into another.

    V. Levenshtein, Soviet Physics Doklady 10 (1966); row by row (Wagner and Fischer 1974).
    """
    row = list(range(len(other) + 1))
    for i, token in enumerate(one, start=1):
        above, row[0] = row[0], i
        for j, wanted in enumerate(other, start=1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (token != wanted))
    return row[-1]


def _distances(answers: Array, truths: Array) -> tuple[Array, Array]:
    """Returns the edits and the lengths of the truths, row by row."""
    edits = [
        edit_distance(answer[answer != PADDING].tolist(), truth[truth != PADDING].tolist())
        for answer, truth in zip(answers, truths, strict=True)
    ]
    return np.array(edits, np.int64), (truths != PADDING).sum(axis=1)
