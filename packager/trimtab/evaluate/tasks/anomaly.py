"""Anomaly detection: a score per sample, higher for anomalies; labels are 0 and 1.

A model whose output has its input's shape is an autoencoder: its score is the mean squared
difference between the two. Of any other model the first output is the score.
"""

from __future__ import annotations

import numpy as np

from trimtab.evaluate.tasks.base import Array, Batch, Evidence, Measure, flat


class Anomaly:
    """Area under the receiver operating characteristic."""

    name = "anomaly"
    part_measure: Measure | None = None
    part_column = "score"
    has_classes = False

    def observe(self, batch: Batch) -> Evidence:
        """Keeps the scores."""
        output = batch.outputs[0]
        if output.ndim > 1 and output.shape == batch.inputs[0].shape and flat(output).shape[1] > 1:
            scores = ((flat(output) - flat(batch.inputs[0])) ** 2).mean(axis=1)
        else:
            scores = flat(output)[:, -1]
        return (
            {"score": scores} if batch.labels is None else {"score": scores, "label": batch.labels}
        )

    def measures(self, evidence: Evidence) -> tuple[Measure, ...]:
        """The area."""
        return (Measure(name="roc_auc", statistic=roc_auc),) if "label" in evidence else ()

    @property
    def agreement(self) -> Measure:
        """How far both rank the samples in the same order."""
        return Measure(name="rank_correlation", statistic=_correlation)

    def agree(self, evidence: Evidence, reference: Evidence) -> Evidence:
        """The ranks (C. Spearman, American Journal of Psychology 15, 1904)."""
        return {"one": _ranks(evidence["score"]), "other": _ranks(reference["score"])}


def roc_auc(evidence: Evidence, counts: Array) -> Array:
    """Returns how often an anomaly scores higher than a normal sample; ties count half.

    J. Hanley and B. McNeil, Radiology 143 (1982), 29-36.

    Args:
        evidence: `score` and `label` (1 for anomalies) per sample.
        counts: Shape `[draws, samples]`.

    Returns:
        One area per draw; NaN where one of the two kinds is missing.
    """
    scores, positive = evidence["score"], evidence["label"] == 1
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.nan))  # NaN differs from the first
    counts, positive = counts[:, order], positive[order]
    anomalies = np.add.reduceat(counts * positive, starts, axis=1)
    normals = np.add.reduceat(counts * ~positive, starts, axis=1)
    below = normals.cumsum(axis=1) - normals / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        area = (anomalies * below).sum(axis=1) / (anomalies.sum(axis=1) * normals.sum(axis=1))
    return np.asarray(area)


def _ranks(scores: Array) -> Array:
    """Returns ranks; equal scores share the mean of theirs."""
    _, which, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean: Array = counts.cumsum() - (counts - 1) / 2
    return mean[which]


def _correlation(evidence: Evidence, counts: Array) -> Array:
    """Pearson's correlation of the ranks."""
    one, other, total = evidence["one"], evidence["other"], counts.sum(axis=1)
    mean_one, mean_other = counts @ one / total, counts @ other / total
    covariance = counts @ (one * other) / total - mean_one * mean_other
    variances = (counts @ one**2 / total - mean_one**2) * (
        counts @ other**2 / total - mean_other**2
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(covariance / np.sqrt(np.maximum(variances, 0)))
