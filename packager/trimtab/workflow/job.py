"""`trimtab compress` as a whole: apply, export for each target, survive an interrupt."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnx_ir as ir

from trimtab.compress.recipe import Recipe
from trimtab.evaluate.load import fingerprint
from trimtab.workflow.compress import Compressor
from trimtab.workflow.compressed import Compressed, tool_versions
from trimtab.workflow.each_target import write_each
from trimtab.workflow.source import Source
from trimtab.workflow.standing import Standing, measure
from trimtab.workflow.unfinished import FOLDER, Unfinished
from trimtab_agent.contract import codec
from trimtab_agent.contract.manifest import RuntimeName
from trimtab_agent.contract.profile import Profile
from trimtab_agent.durable import storage_errors
from trimtab_agent.errors import StorageError, TrimtabError


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to compress, by what, and where to.

    Attributes:
        source: The model and its data.
        data: Where the data came from; None without.
        profile: The kind of device.
        recipe: The steps.
        targets: The runtimes to write for.
        seed: Of everything random.
        output: One folder for each target is made in it.
    """

    source: Source
    data: Path | None
    profile: Profile
    recipe: Recipe
    targets: Sequence[RuntimeName]
    seed: int
    output: Path


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        results: One for each target that its file was let out for.
        refused: Why there is no file for the others.
        interrupted: Whether Ctrl-C ended the recipe before its end. The results are then of the
            best model so far, and the same job goes on after the last finished step.
    """

    results: tuple[Compressed, ...]
    refused: dict[RuntimeName, TrimtabError]
    interrupted: bool


def compress(
    job: Job,
    *,
    log: Callable[[str], None],
    stand: Callable[[ir.Model], Standing] | None = None,
) -> Outcome:
    """Applies a recipe and writes the result for each target.

    Args:
        job: What to do.
        log: Takes lines that say how far things are.
        stand: Says how a graph stands between two steps; by default by running it here.

    Raises:
        StorageError: The output folder cannot be written to, or the disk is full.
        TrimtabError: What a technique raises, or what the first export raises if none succeeds.
        KeyboardInterrupt: Before any step had come to anything, or a second one while the best
            so far was written. Finished steps are kept for the next run of the same job.
    """
    unfinished = Unfinished(job.output / FOLDER, _subject(job))
    compressor = Compressor(
        job.source,
        job.profile,
        seed=job.seed,
        log=log,
        unfinished=unfinished,
        stand=stand or partial(measure, source=job.source, threads=job.profile.threads),
        compare_speed=True,
    )
    interrupted = False
    try:
        applied = compressor.apply(job.recipe)
    except KeyboardInterrupt:
        best = compressor.best_so_far(job.recipe)
        if best is None:
            raise
        log("interrupted: writing the best model so far; Ctrl-C again stops at once")
        applied, interrupted = best, True
    write = partial(compressor.write, applied)
    results, refused = write_each(write, job.targets, job.output, log=log)
    if not interrupted:
        unfinished.clear()
    return Outcome(results, refused, interrupted)


def check_writable(folder: Path) -> None:
    """Makes a folder and checks that files can be made in it, before any long work.

    Raises:
        StorageError: They cannot; the message says why.
    """
    with storage_errors(f"making the output folder {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StorageError(f"the output folder {folder} cannot be written to; choose another -o")


def _subject(job: Job) -> dict[str, str]:
    """Returns what must be the same for finished steps to count."""
    dataset = job.source.dataset
    return {
        "model": job.source.sha256,
        "data": "none" if job.data is None else fingerprint(job.data),
        "task": (dataset and dataset.task) or "none",
        "profile": codec.encode(job.profile).hex(),
        "seed": str(job.seed),
        "version": tool_versions().get("trimtab", "unknown"),
    }
