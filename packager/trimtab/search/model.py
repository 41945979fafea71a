"""What is expected of a candidate that was not tried yet, learned from those that were. Pure.

Latency, energy, memory and wire size are each modelled as log-linear:

    log q = a + b log(share left) + c [int8] + d[runtime] + e[runtime][int8] + noise

with a normal prior on every coefficient but the level `a`, about which nothing is assumed. The
posterior mean has a closed form (Bishop, Pattern Recognition and Machine Learning, 2006, section
3.3). A single measurement is enough to predict from; every further one, on any runtime, moves
the coefficients towards this model on this device, and soon outweighs the priors.

The loss of accuracy is modelled the same way, without the logarithm and the level (the original
loses nothing), and then held to what was measured: it cannot fall with harder compression.

The priors come from side-by-side measurements of a ResNet-8 on digits and a MobileNetV2 on an
x86-64 machine with AVX-512 VNNI, in TFLite, ONNX Runtime and OpenVINO (November 2026). They are
wide where a figure is likely to be different elsewhere, and where none was measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trimtab.search.candidates import Candidate, at_least_as_harsh

Vector = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Belief:
    """A normal distribution."""

    mean: float
    sd: float


@dataclass(frozen=True, kw_only=True)
class Prior:
    """What is believed of one quantity before anything is measured.

    Attributes:
        slope: Per unit of log(share left).
        int8: Of int8 against float32.
        target_sd: How far runtimes differ.
        int8_by_target_sd: How far runtimes differ in what int8 gains.
        noise_sd: What the model leaves unexplained, measuring noise included.
        level_sd: How far the level may lie from 0; None holds it at 0.
    """

    slope: Belief
    int8: Belief
    target_sd: float
    int8_by_target_sd: float
    noise_sd: float
    level_sd: float | None = 100.0  # of a logarithm: no assumption at all


LATENCY = Prior(
    # 0.1 to 0.5 on ResNet-8, where overhead rules; 1 in the limit of a large model.
    slope=Belief(mean=0.6, sd=0.4),
    # 1.5 to 3.1 times faster, 2.2 times in the middle.
    int8=Belief(mean=math.log(1 / 2.2), sd=0.35),
    target_sd=0.4,
    int8_by_target_sd=0.3,
    # Interleaved runs repeat within 3 %; uneven channel counts cost up to 40 %.
    noise_sd=0.1,
)
ENERGY = LATENCY  # not measured: energy is power times time, and power varies less than time
WIRE = Prior(
    # 1.00 in float32 and 0.92 in int8, where the graph itself begins to count.
    slope=Belief(mean=0.95, sd=0.1),
    # 3.5 to 3.7 times smaller, both compressed by zstd.
    int8=Belief(mean=math.log(1 / 3.6), sd=0.1),
    target_sd=0.1,
    int8_by_target_sd=0.1,
    noise_sd=0.05,
)
MEMORY = Prior(
    # Not measured. The resident set of a small model is nearly all interpreter and runtime.
    slope=Belief(mean=0.1, sd=0.15),
    int8=Belief(mean=-0.05, sd=0.15),
    target_sd=0.5,
    int8_by_target_sd=0.1,
    noise_sd=0.03,
)
ACCURACY_DROP = Prior(
    # ResNet-8 pruned to 48 % lost 0.9 points, to 29 % lost 2.0: 1.3 to 1.6 points per unit.
    slope=Belief(mean=-0.015, sd=0.015),
    # At most 0.1 points on plain digits, at most 1.2 on hard ones.
    int8=Belief(mean=0.001, sd=0.004),
    target_sd=0.001,
    int8_by_target_sd=0.002,
    noise_sd=0.004,
    level_sd=None,
)


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What was measured of a candidate.

    Attributes:
        candidate: What was measured.
        share: What was left of the multiply-accumulates or the parameters.
        value: The figure, or its logarithm.
    """

    candidate: Candidate
    share: float
    value: float


class Fit:
    """The posterior mean of a quantity, given a prior and observations."""

    def __init__(self, prior: Prior, observations: Sequence[Observation]) -> None:
        self._targets = sorted({observation.candidate.target for observation in observations})
        means, sds = self._prior_terms(prior)
        self._means = means
        # Scaling each feature by its prior's deviation leaves a ridge regression with unit
        # penalty, which is well-conditioned even with features held at zero.
        rows = np.array([self._features(o.candidate, o.share) for o in observations])
        rows = rows.reshape(len(observations), len(means))
        scaled = rows * sds / prior.noise_sd
        rest = (np.array([o.value for o in observations]) - rows @ means) / prior.noise_sd
        solved = np.linalg.solve(scaled.T @ scaled + np.eye(len(sds)), scaled.T @ rest)
        self._weights = means + sds * solved
        self.slope = float(self._weights[1])

    def predict(self, candidate: Candidate, share: float) -> float:
        """Returns the expected value, in the observations' scale.

        A runtime that was never observed is expected to be like the mean of those that were.
        """
        return float(self._features(candidate, share) @ self._weights)

    def _features(self, candidate: Candidate, share: float) -> Vector:
        """Returns the regressors of a candidate, in the order of `_prior_terms`."""
        int8 = float(candidate.precision == "int8")
        is_target = [float(candidate.target == target) for target in self._targets]
        return np.array(
            [1.0, math.log(share), int8, *is_target, *(flag * int8 for flag in is_target)]
        )

    def _prior_terms(self, prior: Prior) -> tuple[Vector, Vector]:
        """Returns the prior means and standard deviations of the coefficients."""
        count = len(self._targets)
        means = [0.0, prior.slope.mean, prior.int8.mean, *([0.0] * 2 * count)]
        sds = [
            prior.level_sd or 0.0,
            prior.slope.sd,
            prior.int8.sd,
            *([prior.target_sd] * count),
            *([prior.int8_by_target_sd] * count),
        ]
        return np.array(means), np.array(sds)


def fit_log(prior: Prior, observations: Sequence[Observation]) -> Fit | None:
    """Fits the logarithms of positive observations; None without any, for then there is no level.

    `predict` of the result returns logarithms.
    """
    logs = [
        Observation(candidate=o.candidate, share=o.share, value=math.log(o.value))
        for o in observations
        if o.value > 0
    ]
    return Fit(prior, logs) if logs else None


class DropFit:
    """The expected loss of accuracy, which never falls with harder compression.

    The linear fit is held between the largest drop measured of a gentler candidate and the
    smallest of a harsher one (`at_least_as_harsh`). Where noise puts these two the wrong way
    round, their mean is taken.
    """

    def __init__(self, prior: Prior, observations: Sequence[Observation]) -> None:
        self._observations = observations
        self._prior = prior
        self._fit = Fit(prior, observations)

    def predict(self, candidate: Candidate, share: float) -> float:
        """Returns the expected drop as a share: 0.01 is one point."""
        drop = self._linear(candidate, share)
        low = max(
            (o.value for o in self._observations if at_least_as_harsh(candidate, o.candidate)),
            default=-math.inf,
        )
        high = min(
            (o.value for o in self._observations if at_least_as_harsh(o.candidate, candidate)),
            default=math.inf,
        )
        if low > high:
            return (low + high) / 2
        return min(max(drop, low), high)

    def _linear(self, candidate: Candidate, share: float) -> float:
        if self._fit.slope <= 0:
            return self._fit.predict(candidate, share)
        # A gain from pruning is noise: it is not extrapolated.
        return Fit(self._prior, []).predict(candidate, share)
