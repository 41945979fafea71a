"""Embeddings: vectors whose direction counts. The original's are what they should be."""

from __future__ import annotations

import numpy as np

from trimtab.evaluate.tasks.base import Array, Batch, Evidence, Measure, flat, ratio


class Embeddings:
    """Mean and smallest cosine to the original; labels are not looked at."""

    name = "embeddings"
    part_measure: Measure | None = None
    part_column = "cosine"
    has_classes = False
    agreement = Measure(name="cosine", statistic=ratio("cosine"))

    def observe(self, batch: Batch) -> Evidence:
        """Keeps the vectors."""
        return {"answer": flat(batch.outputs[0])}

    def measures(self, evidence: Evidence) -> tuple[Measure, ...]:
        """The cosines, once `agree` has made them: without the original there are none."""
        if "cosine" not in evidence:
            return ()
        return (
            Measure(name="cosine", statistic=ratio("cosine")),
            Measure(name="min_cosine", statistic=_smallest, smooth=False),
        )

    def agree(self, evidence: Evidence, reference: Evidence) -> Evidence:
        """The cosine of each pair; 1 for two zero vectors, 0 for one."""
        one, other = evidence["answer"], reference["answer"]
        norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        alike = (one == other).all(axis=1)
        cosine = (one * other).sum(axis=1) / np.where(norms > 0, norms, 1)
        return {"cosine": np.where(alike, 1.0, np.clip(cosine, -1, 1))}


def _smallest(evidence: Evidence, counts: Array) -> Array:
    smallest: Array = np.where(counts > 0, evidence["cosine"], np.inf).min(axis=1)
    return smallest
