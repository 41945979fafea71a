"""A device and its repository for the crash tests: real store, real database, real trust.

What is left out is what a crash cannot reach: the network is a dictionary of retained messages, and
the bench reads the model file and compares its hash instead of running it. The rest is the
agent's own code, down to python-tuf and the decoding of deltas.

`live` is one life of the agent: it ends what the life before left, then takes one assignment.
"""

from __future__ import annotations

import hashlib
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import numpy as np

from support.updates import INVENTORY, MEASUREMENT
from trimtab_agent.adapters import PackageSource, Trust
from trimtab_agent.assembly import assemble
from trimtab_agent.contract import topics
from trimtab_agent.contract.manifest import Chunk, Manifest, parse_manifest
from trimtab_agent.contract.measurement import Comparison, Measurement
from trimtab_agent.contract.messages import GoldenCheck, Inventory, Progress
from trimtab_agent.durable import sole_user
from trimtab_agent.errors import GoldenError, HealthError, HelperProcessError, TrimtabError
from trimtab_agent.fetcher import MqttDocuments
from trimtab_agent.installer import assemble_in_child
from trimtab_agent.state import open_memory
from trimtab_agent.store import Store
from trimtab_agent.trust import TrustStore
from trimtab_agent.updater import Updater
from trimtab_agent.verifier import Verifier
from trimtab_agent.version import Version

DEVICE = "dev-1"
PROBATION_S = 0.03
"""A trial that is long enough to be killed in, and short enough for 10,000 of them."""

IDLE_S = 600.0
"""Longer waits mean that there is nothing to do."""

SLEPT_S = 1.0
"""Longer waits are skipped by setting the clock forward."""

End = Literal["active", "rolled_back", "refused"]


@dataclass(frozen=True)
class Release:
    """One assignment of the story and what must become of it.

    Attributes:
        label: What it is for, in a word or two.
        target: TUF target name.
        sha256: Of its manifest.
        manifest: The manifest itself.
        counter: Of its assignment.
        signed: The assignment's message.
        end: The outcome that its report must have.
    """

    label: str
    target: str
    sha256: str
    manifest: Manifest
    counter: int
    signed: bytes
    end: End


@dataclass(frozen=True)
class World:
    """A repository with a story of releases for one device.

    Attributes:
        root: The initial root metadata.
        retained: What the broker holds: payload and user properties by topic.
        releases: In the order in which they are assigned.
    """

    root: bytes
    retained: dict[str, tuple[bytes, dict[str, str]]]
    releases: tuple[Release, ...]

    def release(self, sha256: str) -> Release:
        """Returns the release with this manifest hash."""
        return next(release for release in self.releases if release.sha256 == sha256)


STORY: tuple[tuple[str, End], ...] = (
    ("fresh install", "active"),
    ("update", "active"),
    ("delta update", "active"),
    ("refused update", "refused"),
    ("rolled back", "rolled_back"),
)
"""What happens to one device; the version of a release is its place here, from 1."""


def make_world(directory: Path, *, model_bytes: int) -> World:
    """Builds the packages of `STORY` and signs everything.

    Args:
        directory: Where the package files are written.
        model_bytes: Size of a model.
    """
    # Here, not above: a device's process under strace has no use for the packager.
    from support.packages import make_package
    from support.tuf_simulator import TufSimulator
    from trimtab.package.read import Package, open_package
    from trimtab_agent.contract.messages import Assignment

    simulator = TufSimulator()
    releases: list[Release] = []
    package: Package | None = None
    for number, (label, end) in enumerate(STORY, start=1):
        based = label == "delta update" and package is not None
        package = open_package(
            make_package(
                directory,
                data=_weights(number, model_bytes, changed_from=number - 1 if based else None),
                version=str(number),
                chunk_limit_bytes=min(32 * 1024, model_bytes // 6),
                bases=[package.as_base()] if based else [],
            )
        )
        assert any(file.deltas for file in package.manifest.files) == based
        for chunk, wire in package.wire_chunks():
            simulator.broker.retained[topics.blob(chunk.sha256)] = wire, {}
        target = package.manifest.target_name
        simulator.release(target, package.manifest_bytes)
        assignment = Assignment(
            device=DEVICE,
            counter=number,
            target=target,
            issued="2026-11-22T00:00:00Z",
            expires="2126-11-22T00:00:00Z",
            probation_s=PROBATION_S,
        )
        releases.append(
            Release(
                label=label,
                target=target,
                sha256=hashlib.sha256(package.manifest_bytes).hexdigest(),
                manifest=parse_manifest(package.manifest_bytes),
                counter=number,
                signed=simulator.assign(assignment),
                end=end,
            )
        )
    return World(simulator.roots[0], simulator.broker.retained, tuple(releases))


def _weights(seed: int, size: int, *, changed_from: int | None) -> bytes:
    """Returns int8 weights with a bell's histogram; of one in a hundred a step away from others."""
    generator = np.random.default_rng(seed if changed_from is None else changed_from)
    weights = generator.normal(0, 20, size).clip(-127, 127).astype(np.int8)
    if changed_from is not None:
        places = np.random.default_rng(seed).integers(0, size, size // 100)
        weights[places] += 1
    return weights.tobytes()


def save_world(world: World, path: Path) -> None:
    """Writes a world for another process of this test run."""
    path.write_bytes(pickle.dumps(world))


def load_world(path: Path) -> World:
    """Reads what `save_world` wrote."""
    world: World = pickle.loads(path.read_bytes())
    return world


class Retained:
    """The broker's retained messages, with the two methods of `window.Subscriber`."""

    def __init__(self, world: World) -> None:
        self._retained = world.retained

    def subscribe_many(self, names, handler) -> None:
        for name in names:
            if name in self._retained:
                payload, properties = self._retained[name]
                handler(name, payload, properties)

    def unsubscribe(self, *names: str) -> None:
        pass


class RetainedChunks:
    """Chunks from the same place (`sources.Chunks`)."""

    def __init__(self, world: World) -> None:
        self._retained = world.retained

    def fetch(
        self, chunks: Sequence[Chunk], *, stop: Callable[[], bool]
    ) -> Iterator[tuple[Chunk, bytes]]:
        for chunk in chunks:
            yield chunk, self._retained[topics.blob(chunk.sha256)][0]


class ReadingBench:
    """Reads the model and compares its hash; fails where the release's end says so."""

    def __init__(self, world: World) -> None:
        self._world = world

    def inventory(self) -> Inventory:
        return INVENTORY

    def check_golden(self, version: Version) -> GoldenCheck:
        self._read(version)
        if self._world.release(version.sha256).end == "refused":
            raise GoldenError("output 0 differs by 7; 0.1 is allowed")
        return GoldenCheck(samples=1, max_abs_error=0.0, limit=0.1)

    def measure(self, version: Version) -> Measurement:
        self._read(version)
        return MEASUREMENT

    def compare(self, version: Version, running: Version) -> tuple[Measurement, Comparison | None]:
        self._read(running)
        return self.measure(version), None

    def _read(self, version: Version) -> None:
        expected = version.manifest.file(version.manifest.runtime.model).sha256
        assert hashlib.sha256(version.model.read_bytes()).hexdigest() == expected


class StoryHooks:
    """Hooks and a health command that fail where the release's end says so."""

    has_health = True
    interval_s = PROBATION_S / 3
    failures_allowed = 0

    def __init__(self, world: World) -> None:
        self._world = world

    def run(self, hook: str, version: Version | None) -> None:
        pass

    def check_health(self, version: Version) -> None:
        if self._world.release(version.sha256).end == "rolled_back":
            raise HealthError("the application does not answer")


class SkippingClock:
    """The machine's clock, but for long waits, which pass at once."""

    def __init__(self) -> None:
        self._skipped_s = 0.0

    def now(self) -> datetime:
        return datetime.now(timezone.utc)

    def monotonic_s(self) -> float:
        return time.monotonic() + self._skipped_s

    def wait(self, seconds: float) -> None:
        if seconds <= SLEPT_S:
            time.sleep(seconds)
        else:
            self._skipped_s += seconds


def live(
    world: World,
    state_dir: Path,
    signed: bytes,
    *,
    tell: Callable[[Progress], None] = lambda progress: None,
    children: bool = False,
) -> None:
    """One life: recovers, ends what is under way, takes `signed` if it is new, and ends.

    Args:
        world: Where things come from.
        state_dir: The device's disk.
        signed: What the broker delivers after the connection.
        tell: Told of each state that is reached.
        children: Whether to verify and to decode in child processes, as the agent does. What
            these die of passes.

    Raises:
        TrimtabError: Something was in the way, where nothing is.
    """
    trust: Trust
    if children:
        trust = Verifier(state_dir / "trust", world.root)
    else:
        trust = TrustStore(state_dir / "trust", world.root)
    clock = SkippingClock()
    with sole_user(state_dir), open_memory(state_dir / "state.sqlite") as memory:
        updater = Updater(
            memory=memory,
            store=Store(
                state_dir / "packages", assemble=assemble_in_child if children else assemble
            ),
            source=PackageSource(
                MqttDocuments(Retained(world), timeout_s=5.0),
                lambda group: {"retained": RetainedChunks(world)},
                trust,
                device=DEVICE,
            ),
            bench=ReadingBench(world),
            hooks=StoryHooks(world),
            clock=clock,
            notify=tell,
        )
        updater.clean_up()
        updater.offer(signed)
        _run(updater, clock, passing=(HelperProcessError,) if children else ())


def _run(
    updater: Updater, clock: SkippingClock, *, passing: tuple[type[TrimtabError], ...]
) -> None:
    """Steps until there is nothing left to do."""
    while True:
        step = updater.step()
        if step.error and not isinstance(step.error, passing):
            raise step.error
        if step.wait_s is None or step.wait_s > IDLE_S:
            return
        clock.wait(step.wait_s)
