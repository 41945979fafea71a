"""The work of each state before the trial: from an assignment to a version that is switched to."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from trimtab_agent.contract.chunks import sha256_hex
from trimtab_agent.contract.manifest import parse_manifest
from trimtab_agent.contract.measurement import GateResult
from trimtab_agent.contract.messages import Assignment, Gates, State, Transfer
from trimtab_agent.errors import FormatError, GateError
from trimtab_agent.gates import judge
from trimtab_agent.ports import Bench, Hooks, Source
from trimtab_agent.state import Findings
from trimtab_agent.store import Store
from trimtab_agent.suitability import check_suits
from trimtab_agent.version import Version


class Work:
    """Does the work of one state at a time; all of it may be done again after a kill.

    Args:
        store: The versions on disk.
        source: Where things come from.
        bench: What runs models.
        hooks: The device's commands.
    """

    def __init__(self, *, store: Store, source: Source, bench: Bench, hooks: Hooks) -> None:
        self._store = store
        self._source = source
        self._bench = bench
        self._hooks = hooks

    def do(
        self, state: State, assignment: Assignment, found: Findings, stop: Callable[[], bool]
    ) -> Findings:
        """Does the work of `state`, and returns what is known after it.

        That of `measured` ends before the switch itself: `switching` says whether there is one.

        Args:
            state: Before `trial`.
            assignment: What was asked for.
            found: What is known before.
            stop: Says whether to leave a transfer off.

        Raises:
            TrimtabError: It failed; see docs/updates.md.
        """
        if state == "assigned":
            return self._get_manifest(assignment)
        assert found.manifest is not None, f"{state} comes after assigned"
        if state == "fetching":
            transfer = self._fetch(found.manifest, assignment.group, stop)
            return msgspec.structs.replace(found, transfer=transfer)
        if state == "verifying" and self._store.lacks(parse_manifest(found.manifest)):
            # Chunks are not synced to the disk: a power cut may have torn some that had come.
            self._fetch(found.manifest, assignment.group, stop)
        version = self._store.install(found.manifest)
        if state == "verifying":
            # One that was installed long ago may have been damaged since.
            if self._store.damage(version):
                self._store.install(found.manifest, anew=True)
        elif state == "staged":
            golden = self._bench.check_golden(version)
            return msgspec.structs.replace(found, golden=golden)
        elif state == "checked":
            return self._measure(version, assignment.gates, found)
        elif state == "measured":
            return self._allow(version, found)
        return found

    def _fetch(self, manifest: bytes, group: str | None, stop: Callable[[], bool]) -> Transfer:
        wanted = self._store.cheapest(parse_manifest(manifest))
        return self._source.pull(wanted, self._store.chunks, group=group, stop=stop)

    def _get_manifest(self, assignment: Assignment) -> Findings:
        """Fetches the manifest and checks that the package can run here."""
        data = self._source.manifest(assignment.target)
        manifest = parse_manifest(data, what=assignment.target)
        if manifest.target_name != assignment.target:
            raise FormatError(f"{assignment.target} is the manifest of {manifest.target_name}")
        check_suits(manifest, self._bench.inventory())
        if self._store.find(sha256_hex(data)) is None:
            self._store.check_room(manifest)
        return Findings(manifest=data)

    def _measure(self, version: Version, gates: Gates, found: Findings) -> Findings:
        """Measures, and notes what the gates say; `_allow` acts on it.

        What misses a limit is measured a second time, and that counts. Beside processes that keep
        all processors busy one good version in forty is above a limit by chance: the interval's
        error is 5 %, half of it on that side.
        """
        found = self._measure_once(version, gates, found)
        return self._measure_once(version, gates, found) if _missed(found.gates) else found

    def _measure_once(self, version: Version, gates: Gates, found: Findings) -> Findings:
        running = self._store.current
        comparison = None
        if running is not None and _compares(version, running, gates):
            measurement, comparison = self._bench.compare(version, running)
        else:
            measurement = self._bench.measure(version)
        return msgspec.structs.replace(
            found,
            measurement=measurement,
            comparison=comparison,
            gates=judge(measurement, comparison, version.manifest.budget, gates),
        )

    def _allow(self, version: Version, found: Findings) -> Findings:
        """Lets a version run, if the gates and the device's own hook do."""
        if found.switching:
            return found
        check_gates(found.gates)
        self._hooks.run("before_switch", version)
        current = self._store.current
        is_new = current is None or current.sha256 != version.sha256
        return msgspec.structs.replace(found, switching=is_new)


def _compares(version: Version, running: Version, gates: Gates) -> bool:
    """Says whether there is something to compare with, and somebody who wants it."""
    ratios = (gates.latency_ratio, gates.memory_ratio, gates.energy_ratio)
    return (
        any(ratio is not None for ratio in ratios)
        and running.manifest.name == version.manifest.name
        and running.sha256 != version.sha256
    )


def check_gates(results: tuple[GateResult, ...]) -> None:
    """Checks that every limit is kept.

    Raises:
        GateError: One is missed; `reason` is that of the first.
    """
    missed = _missed(results)
    if missed:
        first = missed[0]
        raise GateError("; ".join(map(_say, missed)), gate=first.gate, against=first.against)


def _missed(results: tuple[GateResult, ...]) -> list[GateResult]:
    return [result for result in results if result.verdict == "missed"]


def _say(result: GateResult) -> str:
    """Returns a missed limit in words."""
    value = "unknown" if result.value is None else f"{result.value:.4g}"
    if result.against == "running":
        return f"{result.gate} is {value} times the running version's, limit {result.limit:g}"
    unit = {"latency": "us", "memory": "bytes", "energy": "mJ"}[result.gate]
    if result.gate == "memory":
        value = "unknown" if result.value is None else f"{result.value:.0f}"
    return f"{result.gate} is {value} {unit}, limit {result.limit:.10g}"
