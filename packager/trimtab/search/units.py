"""Figures as people read them. Sizes are decimal: 1 kB is 1,000 bytes. What is absent is a dash."""

from __future__ import annotations

from trimtab.search.verdict import Item
from trimtab_agent.contract.manifest import Evaluation
from trimtab_agent.contract.measurement import Energy

ABSENT = "–"  # noqa: RUF001 - an en dash is what a table shows where there is no figure


def show_bytes(value: float | None) -> str:
    """Returns a size such as `31.2 kB`."""
    if value is None:
        return ABSENT
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.{_decimals(value / size)}f} {unit}"
    return f"{value:.0f} B"


def show_us(value: float | None) -> str:
    """Returns a time such as `812 µs` or `4.09 ms`."""
    if value is None:
        return ABSENT
    if abs(value) >= 1e6:
        return f"{value / 1e6:.{_decimals(value / 1e6)}f} s"
    if abs(value) >= 1e3:
        return f"{value / 1e3:.{_decimals(value / 1e3)}f} ms"
    return f"{value:.{_decimals(value)}f} µs"


def show_share(value: float | None) -> str:
    """Returns a share as a percentage with one decimal, such as `89.3 %`."""
    return ABSENT if value is None else f"{value * 100:.1f} %"


def show_points(value: float | None) -> str:
    """Returns a difference of shares in percentage points with its sign, such as `+0.42`."""
    # Adding zero turns a rounded -0.0 into 0.0, which has no sign to mislead.
    return ABSENT if value is None else f"{round(value * 100, 2) + 0.0:+.2f}"


def show_mj(value: float | None) -> str:
    """Returns an energy such as `1.84 mJ`."""
    return ABSENT if value is None else f"{value:.3g} mJ"


def show_energy(energy: Energy | None) -> str:
    """Returns the energy above idle with its uncertainty, its evidence level and its source.

    A figure never goes without its level; `none` says that there is no figure, and the dash that
    it never came to measuring.
    """
    if energy is None:
        return ABSENT
    if energy.level == "none" or energy.net_mj is None:
        return "none"
    spread = "" if energy.net_uncertainty_mj is None else f" ± {energy.net_uncertainty_mj:.2g}"
    source = "" if energy.source is None else f" {energy.source}"
    return f"{energy.net_mj:.3g}{spread} mJ ({energy.level}{source})"


_SHARES = ("top1", "top5", "token_accuracy", "same_top1", "same_tokens", None)
"""Metrics that count samples or positions, which people read as percentages."""


def show_metric(metric: str | None, value: float | None) -> str:
    """Returns a share as a percentage, and any other figure, such as an R2, with its name."""
    if value is None or metric in _SHARES:
        return show_share(value)
    return f"{value:.4f} {metric}"


def show_accuracy(evaluation: Evaluation | None) -> str:
    """Returns the accuracy, or without labels the agreement with the original, named as such."""
    if evaluation is None:
        return ABSENT
    if evaluation.value is None and evaluation.agreement is not None:
        return f"agrees {show_metric(evaluation.agreement_metric, evaluation.agreement)}"
    return show_metric(evaluation.metric, evaluation.value)


def show_item(item: Item, value: float) -> str:
    """Returns the value of a budget item."""
    if item == "accuracy_drop":
        return f"{value * 100:.2f} points"
    if item == "latency_p95_us":
        return show_us(value)
    if item == "energy_mj":
        return show_mj(value)
    return show_bytes(value)


ITEM_NAMES: dict[Item, str] = {
    "wire_bytes": "size on the wire",
    "latency_p95_us": "95th percentile of latency",
    "peak_memory_bytes": "peak memory",
    "energy_mj": "energy per inference above idle",
    "accuracy_drop": "loss of accuracy",
}


def _decimals(value: float) -> int:
    """Returns how many decimals leave three significant digits."""
    size = abs(value)
    return 0 if size >= 100 else 1 if size >= 10 else 2
