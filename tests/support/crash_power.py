"""Power cuts: traces installs, makes the images of every cut, and starts the agent on each."""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from support.crash_checks import BrokenDeviceError, Disk, check_disk, check_settled
from support.crash_images import Image, images
from support.crash_kills import fork_life
from support.crash_trace import Log, trace
from support.crash_world import World, live, make_world, save_world
from trimtab_agent.updater import NEXT

MODEL_BYTES = 60_000
"""Small: every image is written to the disk. Large enough for several chunks and many sectors."""

MEMORY_DISK = Path("/dev/shm")
"""Where images are made if it is there. What is tested is what the agent makes of a disk, not the
disk; and a sync of one in memory takes no time."""

NEXT_TAKEN_EVERY = 4
"""Images of which one takes the next release too, after it has recovered."""

TRACED = (1, 3, 5)
"""Releases of the story whose installs are traced: fresh, with a delta, rolled back."""


@dataclass
class Tally:
    """What has been counted; written as JSON.

    Attributes:
        images: Distinct disks that were recovered, by traced release.
        models: The same, by the rule that made them.
        left: The same, by what was active on them.
        torn: Those that had a torn chunk.
    """

    seed: int
    images: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    torn: int = 0
    operations: Counter[str] = field(default_factory=Counter)


def traced(world: World, directory: Path, *, number: int) -> Log:
    """Returns what the install of release `number`, from 1, asks the kernel to write.

    Args:
        world: The story; the releases before are installed without a trace.
        directory: Scratch room.
        number: Which release.
    """
    disk = (directory / f"traced-{number}").resolve()
    disk.mkdir()
    for release in world.releases[: number - 1]:
        live(world, disk, release.signed)
    save_world(world, directory / "world.pickle")
    life = [sys.executable, "-m", "support.crash_life", directory / "world.pickle", disk]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return trace([*life, str(number)], disk, environment=environment)


class PowerCuts:
    """Starts the agent on images and checks what it makes of them.

    Args:
        world: The story.
        directory: Scratch room.
    """

    def __init__(self, world: World, directory: Path) -> None:
        self._world = world
        self._disk = directory / "image"
        self._errors = directory / "error.txt"
        self._count = 0

    def recover(self, image: Image, number: int) -> Disk:
        """Checks an image, lets the agent recover from it, and now and then take the next release.

        Args:
            image: The disk after the cut.
            number: The release whose install was cut.

        Returns:
            What was on the disk before anything was recovered.

        Raises:
            BrokenDeviceError: Something is broken, or a promise is; the image stays on the disk.
        """
        shutil.rmtree(self._disk, ignore_errors=True)
        image.tree.write_to(self._disk)
        try:
            found = check_disk(self._disk, self._world)
            _check_promise(image, found)
            self._count += 1
            takes_next = self._count % NEXT_TAKEN_EVERY == 0
            for taken in range(number, min(number + takes_next, len(self._world.releases)) + 1):
                self._live(taken)
                ends = [release.end for release in self._world.releases[:taken]]
                check_settled(self._disk, self._world, ends, powered=False)
        except BrokenDeviceError as error:
            raise BrokenDeviceError(
                f"release {number}, cut {image.cut}, {image.model}: {error}"
            ) from error
        return found

    def _live(self, number: int) -> None:
        signed = self._world.releases[number - 1].signed
        child = fork_life(lambda: live(self._world, self._disk, signed), self._errors)
        _, status = os.waitpid(child, 0)
        if status:
            error = self._errors.read_text() if self._errors.exists() else f"status {status}"
            self._errors.unlink(missing_ok=True)
            raise BrokenDeviceError(f"the agent failed:\n{error}")


def _check_promise(image: Image, disk: Disk) -> None:
    """What the agent has told the host before the cut must not be forgotten."""
    if image.promised is None:
        return
    _, counter, state = image.promised.split()
    order = ["assigned", *NEXT.values()]
    row = disk.row
    if row is None or row.counter < int(counter):
        raise BrokenDeviceError(f"promised {image.promised!r}, the database has {row}")
    ended = state not in order
    if not row.settled and (ended or order.index(row.step) < order.index(state)):
        raise BrokenDeviceError(f"promised {image.promised!r}, the database has {row}")


def memory_disk() -> Path | None:
    """Returns a directory in memory, or None where there is none."""
    return MEMORY_DISK if os.access(MEMORY_DISK, os.W_OK) else None


def run(
    world: World,
    scratch: Path,
    *,
    tally: Tally,
    rounds: int,
    sample: int | None = None,
    numbers: Sequence[int] = TRACED,
) -> Iterator[Tally]:
    """Recovers from images of the traced installs; yields the tally after each.

    Args:
        world: The story.
        scratch: Room for the images.
        tally: Has the seed and takes the counts.
        rounds: See `images`.
        sample: How many images of each install to try, drawn by the seed; None for all.
        numbers: The releases whose installs are traced.
    """
    cuts = PowerCuts(world, scratch)
    for number in numbers:
        log = traced(world, scratch, number=number)
        label = world.releases[number - 1].label
        tally.operations[label] = len(log.operations)
        for image in _drawn(images(log, seed=tally.seed, rounds=rounds), sample, tally.seed):
            disk = cuts.recover(image, number)
            tally.images[label] += 1
            tally.models[image.model] += 1
            new = world.releases[number - 1].sha256
            tally.left[{None: "none", new: "new"}.get(disk.current, "old")] += 1
            tally.torn += disk.torn_chunks > 0
            yield tally


def _drawn(all_images: Iterable[Image], sample: int | None, seed: int) -> Iterable[Image]:
    if sample is None:
        return all_images
    there = list(all_images)
    return random.Random(seed).sample(there, min(sample, len(there)))


def table(tally: Tally) -> str:
    """Returns the summary for people."""
    lines = [f"images recovered        {sum(tally.images.values())}, none broken"]
    for name, count in tally.images.items():
        lines.append(f"  {name:22}{count:6} of {tally.operations[name]} operations")
    lines.append("by rule")
    lines += [f"  {name:22}{count:6}" for name, count in tally.models.items()]
    lines.append("active on the image     " + ", ".join(f"{k} {n}" for k, n in tally.left.items()))
    lines.append(f"with torn chunks        {tally.torn}")
    return "\n".join(lines)


def main() -> None:
    """The command `scripts/lost-writes`."""
    parser = argparse.ArgumentParser(prog="scripts/lost-writes", description=__doc__)
    parser.add_argument("--rounds", type=int, default=2, help="of each random rule (2)")
    parser.add_argument("--sample", type=int, help="images of each install (all)")
    parser.add_argument("--seed", type=int, default=1, help="of the random rules (1)")
    parser.add_argument("--out", type=Path, default=Path("lost-writes.json"))
    arguments = parser.parse_args()
    logging.disable()
    scratch = Path(tempfile.mkdtemp(prefix="trimtab-cuts-", dir=memory_disk()))
    world = make_world(scratch, model_bytes=MODEL_BYTES)
    tally = Tally(seed=arguments.seed)
    for _ in run(world, scratch, tally=tally, rounds=arguments.rounds, sample=arguments.sample):
        sys.stderr.write(f"\r{sum(tally.images.values())} images")
    sys.stderr.write("\n")
    arguments.out.write_text(json.dumps(vars(tally), indent=1))
    sys.stdout.write(table(tally) + "\n")
    shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
