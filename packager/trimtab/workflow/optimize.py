"""The loop: compress, release, deliver, measure on the device, and compress again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from trimtab.compress.recipe import parse_recipe
from trimtab.evaluate.load import fingerprint
from trimtab.fleet.publish import Terms
from trimtab.package.read import open_package
from trimtab.search.candidates import Candidate, ladder
from trimtab.search.loop import Listener, SearchResult, search
from trimtab.search.trial import Built, Measured, measured_from_report
from trimtab.search.verdict import Item, verdict
from trimtab.workflow.bases import packages_of
from trimtab.workflow.compress import Compressor, check_harm_visible
from trimtab.workflow.deliver import Delivery
from trimtab.workflow.release import release
from trimtab.workflow.source import Source
from trimtab.workflow.workspace import Workspace
from trimtab_agent.contract.manifest import Budget, RuntimeName
from trimtab_agent.contract.messages import Gates
from trimtab_agent.contract.profile import Profile

REPORT_TIMEOUT_S = 600.0
"""A slow board takes minutes to measure; a device that is silent for longer is gone."""

SEARCH_FILE = "search.json"

TRIAL_GATES = Gates(budget=True, latency_ratio=None, memory_ratio=None, energy_ratio=None)
"""A candidate that misses the budget is measured, and never runs. Candidates are compared with
each other by the search, not by the device with whatever it happens to run."""

SETTLED_GATES = Gates(budget=False, latency_ratio=None, memory_ratio=None, energy_ratio=None)
"""For a package that keeps the budget as this device has measured it. The budget in its manifest
may be an older one, of the same search before the limits were changed."""

GATED_ITEMS: frozenset[Item] = frozenset({"latency_p95_us", "peak_memory_bytes", "energy_mj"})
"""The items of a budget that a device measures."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What to optimize.

    Attributes:
        source: The model and its data.
        data: The data's file, if there is one.
        profile: The kind of device.
        targets: The runtimes to consider.
        device: The device that measures.
        name: The packages' name.
        budget: What to keep.
        forbid_harm: Whether a candidate is refused of which a class or a group loses
            significantly more than the rest.
        seed: Of everything random.
        output: Folder for the search's file and the compressed models.
    """

    source: Source
    data: Path | None
    profile: Profile
    targets: tuple[RuntimeName, ...]
    device: str
    name: str
    budget: Budget
    forbid_harm: bool
    seed: int
    output: Path


def optimize(
    task: Task,
    workspace: Workspace,
    delivery: Delivery,
    *,
    log: Callable[[str], None],
    listener: Listener | None = None,
) -> SearchResult:
    """Searches on a real device, and leaves it running the best package that was found.

    Args:
        task: What to optimize.
        workspace: Whose packages and keys.
        delivery: The connection to the device.
        log: Takes lines of progress.
        listener: Told what the search does.

    Returns:
        All trials, those of an earlier interrupted run of the same search included. A device
        does not run a package that misses what it measures: where all do, it goes on with the
        last one that it let run, or with the one that ran before.

    Raises:
        DeviceTimeoutError: The device is not there, or stops answering.
        TrimtabError: Something that is no fault of a candidate; what was done is on disk.
    """
    if task.forbid_harm:
        check_harm_visible(task.source)
    status = delivery.wait_until_online(task.device)
    device = _MqttDevice(task.device, delivery, active=status.active)
    result = search(
        ladder(task.profile, task.targets, has_data=task.source.dataset is not None),
        task.budget,
        builder=_PackageBuilder(task, workspace, device, log),
        device=device,
        path=task.output / SEARCH_FILE,
        subject=_subject(task),
        listener=listener,
    )
    best = result.best
    if result.stopped_by != "interrupted" and best is not None and best.built is not None:
        missed = {miss.item for miss in verdict(best, task.budget).misses}
        if missed & GATED_ITEMS:
            log(f"{task.device} does not run {best.candidate.id}: it misses {', '.join(missed)}")
        else:
            device.settle(best.built)
    return result


def _subject(task: Task) -> dict[str, str]:
    """Returns what makes this search this one: with anything else, its trials do not count."""
    return {
        "model": task.source.sha256,
        "data": "none" if task.data is None else fingerprint(task.data),
        "task": (task.source.dataset and task.source.dataset.task) or "none",
        "profile": task.profile.id,
        "device": task.device,
        "seed": str(task.seed),
        "forbid_harm": str(task.forbid_harm),
    }


class _PackageBuilder:
    """The search's port to the host: candidates to signed packages."""

    def __init__(
        self,
        task: Task,
        workspace: Workspace,
        device: _MqttDevice,
        log: Callable[[str], None],
    ) -> None:
        self._task = task
        self._workspace = workspace
        self._device = device
        self._compressor = Compressor(task.source, task.profile, seed=task.seed, log=log)

    def build(self, candidate: Candidate) -> Built:
        """Compresses, exports, evaluates, packs and signs a candidate."""
        task = self._task
        source = {"steps": candidate.recipe, "forbid_harm": task.forbid_harm}
        recipe = parse_recipe(source, f"candidate {candidate.id}")
        directory = task.output / "candidates" / candidate.id
        applied = self._compressor.apply(recipe)
        compressed = self._compressor.write(applied, candidate.target, directory)
        # A released version never changes, and the same search may be run again.
        stamp = datetime.now(UTC).strftime("%Y%m%d%H%M%S")
        released = release(
            directory,
            self._workspace,
            name=task.name,
            version=f"{stamp}.{candidate.id}",
            budget=task.budget,
            # Of candidates little recurs but their golden samples, a fourth of a small package.
            bases=packages_of(self._workspace, [self._device.active], name=task.name),
        )
        return Built(
            package=str(released.path),
            target=released.manifest.target_name,
            counts=compressed.counts,
            sizes=released.manifest.sizes,
            evaluation=compressed.evaluation,
        )


class _MqttDevice:
    """The search's port to the device: packages to measurements.

    Attributes:
        active: Target name of what the device runs, or None.
    """

    def __init__(self, device: str, delivery: Delivery, *, active: str | None) -> None:
        self._device = device
        self._delivery = delivery
        self.active = active

    def measure(self, candidate: Candidate, built: Built) -> Measured:
        """Publishes the package, assigns it, and waits for what the device reports."""
        self._delivery.publish(open_package(Path(built.package)))
        return self._assign(built, TRIAL_GATES, trial=candidate.id)

    def settle(self, built: Built) -> None:
        """Makes sure that the device runs this package in the end."""
        if self.active != built.target:
            self._delivery.publish(open_package(Path(built.package)))
            self._assign(built, SETTLED_GATES, trial=None)

    def _assign(self, built: Built, gates: Gates, trial: str | None) -> Measured:
        terms = Terms(gates=gates)
        assignment = self._delivery.assign(self._device, built.target, trial, terms)
        report = self._delivery.wait_for_report(assignment, REPORT_TIMEOUT_S)
        self.active = report.active
        return measured_from_report(report)
