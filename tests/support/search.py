"""A simulated model and device for the search: sizes, accuracy and latency by known laws."""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from trimtab.search.candidates import Candidate
from trimtab.search.trial import Built, Measured, Trial, TrialFailure
from trimtab_agent.contract.manifest import Budget, Counts, Evaluation, Sizes
from trimtab_agent.contract.measurement import Energy, Environment, Latency, Measurement, Memory
from trimtab_agent.contract.messages import GoldenCheck, Inventory

INVENTORY = Inventory(
    profile="generic-x86-64",
    architecture="x86_64",
    cpu_model="Simulated <CPU> & more",
    cores=2,
    ram_bytes=4_000_000_000,
    os="Linux 1",
    kernel="6.1",
    python="3.11.2",
    agent_version="0.1.0",
    runtimes={},
    power_source=None,
)


@dataclass
class World:
    """A model on a device: `Builder` and `Device` in one.

    Latency is `a * macs_share^b`, times `int8_speed` in int8 and `target_speed` per runtime, with
    log-normal noise. The drop of accuracy is `drop_per_unit * (1 / macs_share - 1)`, plus
    `int8_drop` in int8, with normal noise. Each law has another exponent and another factor than
    the search expects.
    """

    directory: Path = Path()
    a_us: float = 1000.0
    b: float = 0.8
    int8_speed: float = 0.5
    target_speed: dict[str, float] = field(default_factory=dict)
    noise: float = 0.02
    drop_per_unit: float = 0.02
    int8_drop: float = 0.002
    accuracy_noise: float = 0.0
    labels: bool = True
    energy: bool = False
    failing: dict[str, Exception] = field(default_factory=dict)
    refusing: dict[str, TrialFailure] = field(default_factory=dict)
    seed: int = 0
    built: list[str] = field(default_factory=list)
    measured: list[str] = field(default_factory=list)

    def build(self, candidate: Candidate) -> Built:
        if candidate.id in self.failing:
            raise self.failing[candidate.id]
        self.built.append(candidate.id)
        package = self.directory / f"{candidate.id}.trimtab"
        if self.directory != Path():
            package.write_bytes(b"package")
        share = round(candidate.macs_share * 64) / 64
        bytes_per_weight = 1 if candidate.precision == "int8" else 4
        weights = int(100_000 * share)
        size = weights * bytes_per_weight
        return Built(
            package=str(package),
            target=f"model-{candidate.id}.json",
            counts=Counts(
                macs=int(5_000_000 * share),
                parameters=weights,
                original_macs=5_000_000,
                original_parameters=100_000,
            ),
            sizes=Sizes(
                wire_bytes=int(size * 0.9) + 3000, file_bytes=size + 5000, weight_bytes=size
            ),
            evaluation=self._evaluation(candidate, share),
        )

    def measure(self, candidate: Candidate, built: Built) -> Measured:
        self.measured.append(candidate.id)
        if candidate.id in self.refusing:
            return Measured(failure=self.refusing[candidate.id], inventory=INVENTORY)
        share = built.counts.macs_share
        speed = self.int8_speed if candidate.precision == "int8" else 1.0
        speed *= self.target_speed.get(candidate.target, 1.0)
        generator = np.random.default_rng([self.seed, len(self.measured)])
        latency_us = self.a_us * share**self.b * speed * generator.lognormal(0, self.noise)
        return Measured(
            golden=GoldenCheck(samples=8, max_abs_error=0.001, limit=0.01),
            measurement=measurement(latency_us, 60_000_000 + built.sizes.weight_bytes, self.energy),
            inventory=INVENTORY,
        )

    def trial(self, candidate: Candidate) -> Trial:
        """Builds and measures a candidate outside any loop."""
        built = self.build(candidate)
        measured = self.measure(candidate, built)
        return Trial(
            candidate=candidate,
            built=built,
            measured=measured,
            failure=measured.failure,
            compress_s=1.5,
        )

    def _evaluation(self, candidate: Candidate, share: float) -> Evaluation:
        drop = self.drop_per_unit * (1 / share - 1)
        drop += self.int8_drop * (candidate.precision == "int8")
        generator = np.random.default_rng([self.seed, int(share * 64), len(candidate.precision)])
        drop += generator.normal(0, self.accuracy_noise)
        value = max(0.0, 0.9 - drop)
        return Evaluation(
            metric="top1" if self.labels else None,
            value=value if self.labels else None,
            reference=0.9 if self.labels else None,
            agreement=max(0.0, 1 - 1.5 * drop),
            samples=3000,
            max_abs_error=drop,
        )


def measurement(latency_us: float, peak_rss_bytes: int, energy: bool = False) -> Measurement:
    """Returns a measurement with a 95th percentile of `latency_us`."""
    median = latency_us * 0.9
    return Measurement(
        runtime="tflite",
        runtime_version="2.3.0",
        provider="XNNPACK",
        latency=Latency(
            count=1000,
            warmup_count=10,
            load_us=5000.0,
            first_us=latency_us * 2,
            mean_us=median,
            min_us=median * 0.9,
            max_us=latency_us * 1.5,
            p50_us=median,
            p90_us=latency_us * 0.97,
            p95_us=latency_us,
            p99_us=latency_us * 1.2,
            p50_interval_us=(median * 0.99, median * 1.01),
            p95_interval_us=(latency_us * 0.98, latency_us * 1.02),
            steady=True,
            threads=1,
            raw_us=struct.pack("<3I", 1, 2, 3),
        ),
        memory=Memory(
            peak_rss_bytes=peak_rss_bytes,
            baseline_rss_bytes=55_000_000,
            model_peak_bytes=peak_rss_bytes - 55_000_000,
            pss_bytes=None,
            available_drop_bytes=None,
        ),
        energy=Energy(
            level="counter",
            source="rapl:package-0",
            scope="soc",
            gross_mj=latency_us * 0.02,
            net_mj=latency_us * 0.01,
            net_uncertainty_mj=latency_us * 0.0005,
        )
        if energy
        else Energy(level="none", reason="no sensor here"),
        environment=Environment(throttled=False, load_average=0.5),
    )


def take(world: World, candidates: list[Candidate], budget, propose, limit: int = 100):
    """Yields trials as the proposer asks for them, at most `limit`."""
    trials: list[Trial] = []
    for _ in itertools.repeat(None, limit):
        candidate = propose(candidates, trials, budget)
        if candidate is None:
            return
        trials.append(world.trial(candidate))
        yield trials[-1]


def worlds() -> st.SearchStrategy[World]:
    """Devices of all kinds, those included on which int8 is slower than float32."""
    return st.builds(
        World,
        a_us=st.floats(20, 1e6),
        b=st.floats(0.05, 1.3),
        int8_speed=st.floats(0.25, 1.6),
        target_speed=st.fixed_dictionaries(
            {name: st.floats(0.5, 3.0) for name in ("tflite", "openvino", "onnxruntime")}
        ),
        noise=st.floats(0, 0.05),
        drop_per_unit=st.floats(0, 0.05),
        int8_drop=st.floats(-0.002, 0.02),
        accuracy_noise=st.floats(0, 0.0005),
        labels=st.booleans(),
        energy=st.booleans(),
        seed=st.integers(0, 1000),
    )


@st.composite
def budgets(draw, scale_us: float = 1000.0) -> Budget:
    """Budgets with any of their items, for a model of about `scale_us`."""

    def maybe(strategy):
        return draw(st.none() | strategy)

    return Budget(
        wire_bytes=maybe(st.integers(5_000, 400_000)),
        latency_p95_us=maybe(st.floats(0.1, 1.2).map(lambda share: share * scale_us)),
        peak_memory_bytes=maybe(st.integers(60_000_000, 60_500_000)),
        energy_mj=maybe(st.floats(0.1, 12.0)),
        accuracy_drop=maybe(st.floats(0, 0.05)),
    )
