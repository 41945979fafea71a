"""Measurements with figures of one's choice."""

from __future__ import annotations

from trimtab_agent.contract.measurement import (
    Comparison,
    Energy,
    Environment,
    Latency,
    Measurement,
    Memory,
)


def a_measurement(
    *,
    p50_us: float = 900.0,
    p90_us: float | None = 950.0,
    p95_us: float | None = 1000.0,
    peak_bytes: int = 100_000_000,
    net_mj: float | None = None,
    net_uncertainty_mj: float | None = None,
) -> Measurement:
    """Returns a measurement; percentiles that are None were not to be had from so few runs."""
    return Measurement(
        runtime="onnxruntime",
        runtime_version="1",
        provider="CPUExecutionProvider",
        latency=Latency(
            count=100 if p95_us is not None else 40 if p90_us is not None else 10,
            warmup_count=10,
            load_us=1.0,
            first_us=1.0,
            mean_us=p50_us,
            min_us=1.0,
            max_us=p95_us or p90_us or p50_us,
            p50_us=p50_us,
            p90_us=p90_us,
            p95_us=p95_us,
            p99_us=None,
            p50_interval_us=None,
            p95_interval_us=None if p95_us is None else (p95_us - 10, p95_us + 10),
            steady=True,
            threads=1,
            raw_us=b"",
        ),
        memory=Memory(
            peak_rss_bytes=peak_bytes,
            baseline_rss_bytes=1,
            model_peak_bytes=peak_bytes - 1,
            pss_bytes=None,
            available_drop_bytes=None,
        ),
        energy=Energy(
            level="none" if net_mj is None else "counter",
            net_mj=net_mj,
            net_uncertainty_mj=net_uncertainty_mj,
        ),
        environment=Environment(),
    )


def a_comparison(
    *,
    latency: tuple[float, tuple[float, float]] | None = (1.0, (0.98, 1.02)),
    memory: float | None = 1.0,
    energy: tuple[float, tuple[float, float]] | None = None,
) -> Comparison:
    """Returns a comparison with these ratios and their intervals."""
    return Comparison(
        target="model-1.json",
        rounds=12,
        running=a_measurement(),
        latency_ratio=None if latency is None else latency[0],
        latency_interval=None if latency is None else latency[1],
        memory_ratio=memory,
        energy_ratio=None if energy is None else energy[0],
        energy_interval=None if energy is None else energy[1],
    )
