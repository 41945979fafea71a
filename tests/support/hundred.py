"""Bad packages and good ones, by the hundred, for devices that run a good version.

None of the bad may ever be active, but for those that fail on trial, which are taken back. None
of the good may be refused.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from support import (
    hundred_bad_costs,
    hundred_bad_models,
    hundred_bad_orders,
    hundred_bad_packages,
    hundred_good,
)
from support.hundred_device import Device, GuardBrokenError, Result, Surroundings
from support.hundred_kinds import Case, Kind
from support.hundred_models import FAMILIES, Family, Weights
from support.hundred_packages import make
from support.hundred_real import find_families

BAD: tuple[Kind, ...] = (
    *hundred_bad_models.KINDS,
    *hundred_bad_packages.KINDS,
    *hundred_bad_costs.KINDS,
    *hundred_bad_orders.KINDS,
)
CHILDREN_EVERY = 4
"""Every so many devices verify and decode in child processes, as the agent does."""


@dataclass
class Line:
    """One package and what became of it.

    Attributes:
        good: Whether it was a good one.
        kind: What was done to it.
        family: The model's kind and runtime.
        outcome: What the device made of it.
        reason: Why.
        state: Where.
        message: Why, in words.
        fault: What is wrong with that; empty if all is well.
        seconds: How long it took.
    """

    good: bool
    kind: str
    family: str
    outcome: str = ""
    reason: str = ""
    state: str = ""
    message: str = ""
    fault: str = ""
    seconds: float = 0.0

    def take(self, result: Result) -> None:
        self.outcome, self.reason = result.outcome, result.reason
        self.state, self.message = result.state, result.message


@dataclass
class Site:
    """A device, and the weights of the model that runs on it."""

    device: Device
    weights: Weights
    rng: np.random.Generator
    versions: int = 1

    def next_version(self) -> str:
        self.versions += 1
        return str(self.versions)


@dataclass
class Campaign:
    """All devices, made when they are needed.

    Attributes:
        directory: Their disks.
        seed: Of everything that is drawn.
        tell: Told of each package.
        families: Of the models, by name.
    """

    directory: Path
    seed: int
    tell: Callable[[Line], None] = lambda line: None
    families: Mapping[str, Family] = field(default_factory=lambda: FAMILIES)
    sites: dict[str, Site] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)

    def run(self, *, bad: int, good: int) -> list[Line]:
        """Tries so many packages of either sort, in an order of chance."""
        rng = np.random.default_rng(self.seed)
        kinds: list[Kind | str] = [BAD[index % len(BAD)] for index in range(bad)]
        names = list(hundred_good.KINDS)
        kinds += [names[index % len(names)] for index in range(good)]
        for number in rng.permutation(len(kinds)):
            kind = kinds[number]
            fits = [f for f in self.families.values() if isinstance(kind, str) or kind.fits(f)]
            site = self._site(fits[int(rng.integers(len(fits)))])
            line = self._try_good(site, kind) if isinstance(kind, str) else self._try(site, kind)
            self.lines.append(line)
            self.tell(line)
        return self.lines

    def _site(self, family: Family) -> Site:
        """Returns the family's device; its first good version is installed."""
        if family.name not in self.sites:
            number = list(self.families).index(family.name)
            rng = np.random.default_rng([self.seed, number])
            device = Device(
                self.directory / family.name, family, children=number % CHILDREN_EVERY == 0
            )
            weights = family.draw(rng)
            made = make(family, family.write(weights), rng, version="1")
            device.first_message = device.assignment(device.release(made.package))
            result = device.take(device.first_message)
            assert result.outcome == "active", f"the first version of {family.name}: {result}"
            device.accept(made)
            self.sites[family.name] = Site(device, weights, rng)
        return self.sites[family.name]

    def _try(self, site: Site, kind: Kind) -> Line:
        """Gives the device a bad package."""
        device = site.device
        line = Line(good=False, kind=kind.name, family=device.family.name)
        weights = device.family.draw(site.rng)
        assert device.good is not None
        made = make(
            device.family,
            device.family.write(weights),
            site.rng,
            name=device.good.manifest.name,  # only versions of one name are compared
            version=site.next_version(),
        )
        attack = kind.attack(Case(device, site.rng, weights, made))
        with _judging(line):
            target = attack.target or made.manifest.target_name
            if attack.package is not None:
                device.release(attack.package, target=target)
            signed = device.assignment(target, key=attack.key, **attack.assignment)
            device.around = attack.around
            try:
                line.take(
                    device.take(
                        signed if attack.message is None else attack.message(signed),
                        forbidden=attack.package.sha256 if attack.package else None,
                        on_trial=kind.end == "rolled_back",
                    )
                )
            finally:
                device.around = Surroundings()
                attack.undo()
                device.forget_offers()
            device.check_good()
            if (line.outcome, line.reason) not in {(kind.end, reason) for reason in kind.reasons}:
                line.fault = f"should be {kind.end}, {' or '.join(kind.reasons)}"
            if device.memory.pending is not None:
                _settle(device)
        return line

    def _try_good(self, site: Site, kind: str) -> Line:
        device = site.device
        line = Line(good=True, kind=kind, family=device.family.name)
        draft = hundred_good.Draft(device, site.weights, site.rng, site.next_version())
        offer = hundred_good.KINDS[kind](draft)
        with _judging(line), hundred_good.busy(offer.neighbours):
            signed = device.assignment(device.release(offer.made.package), **offer.assignment)
            device.around = offer.around
            try:
                line.take(device.take(signed))
            finally:
                device.around = Surroundings()
            if line.outcome == "active":
                device.accept(offer.made)
                site.weights = offer.weights
            else:
                line.fault = "should be active"
            device.check_good()
        return line

    def close(self) -> None:
        for site in self.sites.values():
            site.device.close()


@contextlib.contextmanager
def _judging(line: Line) -> Iterator[None]:
    """Notes how long it takes, and what must not happen."""
    start = time.monotonic()
    try:
        yield
    except GuardBrokenError as error:
        line.fault = str(error)
    finally:
        line.seconds = round(time.monotonic() - start, 3)


def _settle(device: Device) -> None:
    """Assigns the good version again: an update that waits must give way to it."""
    assert device.good is not None
    result = device.take(device.assignment(device.good.manifest.target_name))
    if result.outcome != "active":
        raise GuardBrokenError(f"after an update that waited: {result}")
    device.check_good()


def table(lines: list[Line]) -> str:
    """Returns kind, outcome, reason and number, as text."""
    counted = Counter((not line.good, line.kind, line.outcome, line.reason) for line in lines)
    rows = [f"{'kind':42} {'outcome':12} {'reason':18} {'n':>3}"]
    for (bad, kind, outcome, reason), count in sorted(counted.items()):
        sort = "bad " if bad else "good"
        rows.append(f"{sort + ' ' + kind:42} {outcome:12} {reason or '-':18} {count:>3}")
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bad", type=int, default=100)
    parser.add_argument("--good", type=int, default=100)
    parser.add_argument(
        "--models", type=Path, help="a folder of .onnx and .tflite files to use too"
    )
    parser.add_argument("--json", type=Path, help="write every package's line to this file")
    parser.add_argument("--verbose", action="store_true", help="tell of every package")
    options = parser.parse_args()
    logging.disable()

    def tell(line: Line) -> None:
        if options.verbose or line.fault:
            sys.stderr.write(f"{'FAULT' if line.fault else 'ok'} {line}\n")

    with tempfile.TemporaryDirectory(prefix="trimtab-hundred-") as folder:
        found = find_families(options.models) if options.models else ()
        families = {**FAMILIES, **{family.name: family for family in found}}
        campaign = Campaign(Path(folder), options.seed, tell, families)
        start = time.monotonic()
        lines = campaign.run(bad=options.bad, good=options.good)
        campaign.close()
    faults = [line for line in lines if line.fault]
    bad = [line for line in lines if not line.good]
    sys.stdout.write(
        f"{table(lines)}\n\nseed {options.seed}: {len(bad)} bad of "
        f"{len({line.kind for line in bad})} kinds, {len(lines) - len(bad)} good, "
        f"{len({line.family for line in lines})} sorts of models, "
        f"{time.monotonic() - start:.0f} s; {len(faults)} faults\n"
    )
    if options.json:
        options.json.write_text(json.dumps([asdict(line) for line in lines], indent=1))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
