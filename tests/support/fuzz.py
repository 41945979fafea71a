"""Feeds spoilt inputs to every parser and keeps those that do harm.

Harm is any exception but a `TrimtabError`, more than `MAX_SECONDS`, or memory out of proportion.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from support.crash_power import memory_disk
from support.fuzz_targets import Target, targets
from support.peak_memory import peak_growth
from trimtab_agent.errors import TrimtabError

MAX_SECONDS = 5.0
"""For one input. Generous: what is looked for is a hang, on a machine that may be busy."""

MAX_PEAK_BYTES = 64 << 20
"""Growth of the process while one input is read. The inputs have well under 1 MB."""


@dataclass(frozen=True)
class Harm:
    """An input that did harm.

    Attributes:
        target: Name of the parser.
        data: The input.
        what: What happened.
    """

    target: str
    data: bytes
    what: str


class _TooSlowError(BaseException):
    """Raised by the alarm; no parser may catch it."""


def try_input(target: Target, data: bytes) -> Harm | None:
    """Reads one input; returns the harm it did, or None.

    Args:
        target: The parser.
        data: The input.
    """

    def late(*_: object) -> None:
        raise _TooSlowError

    before = signal.signal(signal.SIGALRM, late)
    try:
        signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS)
        with peak_growth() as growth:
            target.read(data)
    except TrimtabError as error:
        if not str(error):
            return Harm(target.name, data, "an error without a message")
    except _TooSlowError:
        return Harm(target.name, data, f"took longer than {MAX_SECONDS:g} s")
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return Harm(target.name, data, f"{type(error).__name__}: {error}"[:300])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if growth.peak_bytes > MAX_PEAK_BYTES:
        return Harm(target.name, data, f"took {growth.peak_bytes >> 20} MiB")
    return None


def inputs(target: Target, *, seed: int) -> Iterator[bytes]:
    """Yields a target's examples, then spoilt ones without end."""
    yield from target.examples
    chance = random.Random(f"{seed}/{target.name}")
    while True:
        example = chance.choice(target.examples)
        for _ in range(chance.choice((1, 1, 1, 2))):
            example = target.change(chance, example)
        yield example


def hunt(
    target: Target, *, seed: int, until: Callable[[int], bool], found: Callable[[Harm], None]
) -> int:
    """Reads inputs of one target until told to stop; returns how many.

    Args:
        target: The parser.
        seed: Of the inputs.
        until: Given the count so far, says whether it is enough.
        found: Told of every harm.
    """
    for count, data in enumerate(inputs(target, seed=seed)):
        if until(count):
            return count
        harm = try_input(target, data)
        if harm:
            found(harm)
    raise AssertionError("inputs never end")


def save(harm: Harm, directory: Path) -> Path:
    """Writes the input that did harm to a file that `scripts/fuzz --input` reads."""
    directory.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"\W+", "-", harm.target)
    path = directory / f"{name}-{hashlib.sha256(harm.data).hexdigest()[:12]}"
    path.write_bytes(harm.data)
    return path


def main() -> None:
    """The command `scripts/fuzz`."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="for all targets together (5)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", help="only targets whose name has this in it")
    parser.add_argument("--input", type=Path, help="read this file once, with --target")
    parser.add_argument("--out", type=Path, default=Path("fuzz-found"), help="for what does harm")
    arguments = parser.parse_args()
    logging.disable()
    harms: dict[str, Path] = {}

    def found(harm: Harm) -> None:
        key = f"{harm.target}: {re.sub(r'[0-9]+', 'N', harm.what)[:120]}"
        if key not in harms:
            harms[key] = save(harm, arguments.out)
            sys.stdout.write(f"{harm.target}: {harm.what}\n    {harms[key]}\n")

    with tempfile.TemporaryDirectory(prefix="trimtab-fuzz-", dir=memory_disk()) as scratch:
        there = [t for t in targets(Path(scratch)) if (arguments.target or "") in t.name]
        counts: Counter[str] = Counter()
        for target in there:
            if arguments.input:
                harm = try_input(target, arguments.input.read_bytes(), count_memory=True)
                if harm:
                    found(harm)
                continue
            end = time.monotonic() + 60 * arguments.minutes / len(there)
            counts[target.name] = hunt(
                target,
                seed=arguments.seed,
                until=lambda _, end=end: time.monotonic() > end,
                found=found,
            )
            sys.stderr.write(f"{target.name:28}{counts[target.name]:9} inputs\n")
    sys.stdout.write(f"{counts.total()} inputs, {len(harms)} kinds of harm\n")
    sys.exit(bool(harms))


if __name__ == "__main__":
    main()
