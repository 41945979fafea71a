"""Good packages of many kinds, none of which may be refused."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from support.hundred_bad_costs import deeper
from support.hundred_device import Device, Surroundings, gates_off
from support.hundred_models import Weights
from support.hundred_packages import Made, edit, make, raw_edit
from trimtab_agent.config import HealthConfig, HooksConfig
from trimtab_agent.contract.manifest import Budget, Hardware
from trimtab_agent.contract.messages import Gates


@dataclass(frozen=True)
class Offer:
    """A good package, and how it is assigned.

    Attributes:
        made: The package.
        weights: What its model was written from.
        assignment: Fields of the assignment.
        around: The world around the device.
        neighbours: Processes that keep a processor busy meanwhile.
    """

    made: Made
    weights: Weights
    assignment: Mapping[str, Any] = field(default_factory=dict)
    around: Surroundings = field(default_factory=Surroundings)
    neighbours: int = 0


@dataclass(frozen=True)
class Draft:
    """Where a good package starts from.

    Attributes:
        device: Whose next version it is.
        weights: Of the version that runs.
        rng: For everything that is drawn.
        version: Its version.
    """

    device: Device
    weights: Weights
    rng: np.random.Generator
    version: str

    def offer(self, weights: Weights, *, based: bool = False, **options: Any) -> Offer:
        """Packs weights; `based` adds deltas from the running version."""
        family, good = self.device.family, self.device.good
        bases = [good.base] if based and good else []
        if good:
            options.setdefault("name", good.manifest.name)
        made = make(
            family, family.write(weights), self.rng, version=self.version, bases=bases, **options
        )
        offer = Offer(made, weights)
        running = good.manifest.runtime if good else made.manifest.runtime
        if running.threads == made.manifest.runtime.threads:
            return offer
        # After "two threads", a version with one would be slower, and rightly refused.
        runtime = msgspec.structs.replace(made.manifest.runtime, threads=running.threads)
        return _edited(offer, runtime=runtime)

    def trained_anew(self) -> Weights:
        return self.device.family.draw(self.rng)


Maker = Callable[[Draft], Offer]


def _floats(weights: Weights, change: Callable[[np.ndarray], np.ndarray]) -> Weights:
    """Changes matrices of floats; others stay."""
    return {
        name: change(array).astype(array.dtype)
        if array.ndim > 1 and array.dtype == np.float32
        else array
        for name, array in weights.items()
    }


def _prune(array: np.ndarray) -> np.ndarray:
    return np.where(np.abs(array) < np.quantile(np.abs(array), 0.7), 0, array)


def _cluster(array: np.ndarray) -> np.ndarray:
    centres = np.quantile(array, (np.arange(16) + 0.5) / 16)
    return centres[np.abs(array[..., None] - centres).argmin(axis=-1)]


def _head_only(draft: Draft) -> Weights:
    names = [n for n in draft.weights if n.startswith("w") and draft.weights[n].ndim > 1]
    if not names:  # a model that was found as a file
        return draft.weights
    name = max(names)
    return {**draft.weights, name: draft.trained_anew()[name]}


def _steps_away(draft: Draft) -> Weights:
    def nudge(array: np.ndarray) -> np.ndarray:
        places = draft.rng.random(array.shape) < 0.05
        return array + places * (1 if array.dtype == np.int8 else 0.01)

    return {n: nudge(a).astype(a.dtype) if a.ndim > 1 else a for n, a in draft.weights.items()}


def _with(offer: Offer, **changes: Any) -> Offer:
    return Offer(**{**{f: getattr(offer, f) for f in offer.__dataclass_fields__}, **changes})


def _edited(offer: Offer, **changes: Any) -> Offer:
    made = offer.made
    return _with(offer, made=Made(edit(made.package, **changes), made.files, made.samples,
                                  made.base))  # fmt: skip


def _from_the_future(draft: Draft) -> Offer:
    """A manifest with fields that this agent does not know."""
    offer = draft.offer(draft.trained_anew())
    package = raw_edit(offer.made.package, lambda fields: fields.update(carbon={"g": 3}))
    made = offer.made
    return _with(offer, made=Made(package, made.files, made.samples, made.base))


def _threads(draft: Draft) -> Offer:
    offer = draft.offer(draft.trained_anew())
    runtime = msgspec.structs.replace(offer.made.manifest.runtime, threads=2)
    # Two threads on two busy processors may be slower than one: that is no fault of the package.
    return _with(_edited(offer, runtime=runtime), assignment=gates_off())


def _on_trial(draft: Draft) -> Offer:
    config = HealthConfig(command=("/bin/sh", "-c", 'test -s "$TRIMTAB_MODEL"'), interval_s=0.05)
    hooks = HooksConfig(before_switch=("true",), after_switch=("true",))
    return _with(
        draft.offer(draft.trained_anew()),
        around=Surroundings(hooks=hooks, health=config),
        assignment={"probation_s": 0.2},
    )


def _patient_health(draft: Draft) -> Offer:
    """The health command fails once, and may."""
    mark = draft.device.state_dir / f"failed-{draft.version}"
    script = f"test -e {mark} || {{ touch {mark}; exit 1; }}"
    config = HealthConfig(command=("/bin/sh", "-c", script), interval_s=0.01, failures=1)
    return _with(draft.offer(draft.trained_anew()), around=Surroundings(health=config))


def _deeper(draft: Draft) -> Offer:
    """Slower, and the operator has said that it may be."""
    if draft.device.family.kind not in ("layers", "value"):
        return draft.offer(draft.trained_anew())
    offer = draft.offer(deeper(draft.weights, 2))
    return _with(offer, assignment=gates_off(), weights=draft.weights)


def _fitted(draft: Draft) -> Offer:
    hardware = Hardware(architectures=(platform.machine(), "armv9"), min_ram_bytes=64 << 20)
    return _edited(draft.offer(draft.trained_anew()), hardware=hardware)


def _in_budget(draft: Draft) -> Offer:
    budget = Budget(latency_p95_us=5e6, peak_memory_bytes=4 << 30, energy_mj=1e6)
    return draft.offer(draft.trained_anew(), budget=budget)


def _no_gates(draft: Draft) -> Offer:
    offer = draft.offer(draft.trained_anew(), budget=Budget(latency_p95_us=1e-3))
    none = Gates(budget=False, latency_ratio=None, memory_ratio=None, energy_ratio=None)
    return _with(offer, assignment={"gates": none})


KINDS: dict[str, Maker] = {
    "trained anew": lambda draft: draft.offer(draft.trained_anew()),
    "head trained anew, as a delta": lambda draft: draft.offer(_head_only(draft), based=True),
    "a step here and there, as a delta": lambda draft: draft.offer(_steps_away(draft), based=True),
    "nothing changed but the version": lambda draft: draft.offer(draft.weights, based=True),
    "pruned": lambda draft: draft.offer(_floats(draft.trained_anew(), _prune)),
    "clustered": lambda draft: draft.offer(_floats(draft.trained_anew(), _cluster), based=True),
    "within its budget": _in_budget,
    "budget that nobody asks for": _no_gates,
    "for this hardware": _fitted,
    "fields from the future": _from_the_future,
    "two threads": _threads,
    "healthy on trial": _on_trial,
    "health that fails once": _patient_health,
    "slower, as allowed": _deeper,
    "another name": lambda draft: draft.offer(draft.trained_anew(), name="successor"),
    "beside a busy process": lambda draft: _with(draft.offer(draft.trained_anew()), neighbours=1),
    "beside three busy processes": lambda draft: _with(
        draft.offer(draft.trained_anew()), neighbours=3
    ),
}


@contextmanager
def busy(neighbours: int) -> Iterator[None]:
    """Keeps processors busy."""
    code = "while True: pass"
    running = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(neighbours)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()
