"""Files of one model side by side, on every runtime: accuracy of each, and times in one run.

Shared by the `int8_*.py` scripts. A file's answers are those that `trimtab_agent.runtimes` gets of
it, as on a device; its time is that of the runtime's own call (`bare.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import int8_peers
import numpy as np
import onnx_ir as ir
import timing
from bare import bare_run
from int8_peers import Peer
from numpy.typing import NDArray

from trimtab.compress.context import Context
from trimtab.compress.recipe import parse_recipe, run_recipe
from trimtab.evaluate.data import Dataset
from trimtab.hardware import load_profile
from trimtab.targets import export
from trimtab_agent import runtimes
from trimtab_agent.contract.manifest import RuntimeName
from trimtab_agent.errors import TrimtabError

Array = NDArray[Any]

RUNTIMES: tuple[RuntimeName, ...] = ("tflite", "onnxruntime", "openvino")
FLOAT, OURS = "float", "trimtab int8"


@dataclass(frozen=True)
class File:
    """A file to measure.

    Attributes:
        name: In the table; `FLOAT` and names that start with `trimtab` are no peers.
        runtime: What runs it.
        path: What to load.
        options: Of the session.
    """

    name: str
    runtime: RuntimeName
    path: Path
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def is_peer(self) -> bool:
        """Whether somebody else's tool made it."""
        return not self.name.startswith(("trimtab", FLOAT))

    @property
    def file_bytes(self) -> int:
        """Of the file, and of OpenVINO's weights beside it."""
        files = [self.path]
        if self.runtime == "openvino":
            files.append(self.path.with_suffix(".bin"))
        return sum(path.stat().st_size for path in files)


def compress(
    model: ir.Model, recipe: Any, dataset: Dataset, *, teacher: ir.Model | None = None
) -> ir.Model:
    """Applies a recipe as `trimtab compress` does, with seed 0."""
    context = Context(
        profile=load_profile("generic-x86-64"),
        dataset=dataset,
        teacher=teacher or model,
        seed=0,
        log=lambda line: print(f"  {line}", flush=True),
    )
    return run_recipe(model, parse_recipe(recipe, "benchmark"), context).model


def written(
    name: str, model: ir.Model, folder: Path, samples: Sequence[Array], targets: Any = RUNTIMES
) -> list[File]:
    """Exports for each target, gate included; says why where a target refuses."""
    files = []
    for target in targets:
        place = folder / slug(name) / target
        try:
            exported = export(model, target, place, samples=tuple(samples), sized=True)
        except TrimtabError as error:
            print(f"{name} for {target}: {error}", flush=True)
            continue
        files.append(File(name, target, exported.path, dict(exported.options)))
    return files


def made_all(
    peers: Sequence[Peer],
    sources: dict[str, Path],
    samples: Sequence[Array],
    folder: Path,
    targets: Any = RUNTIMES,
) -> list[File]:
    """Returns the peers' files, each made once a folder; says why where a peer fails.

    Args:
        peers: Who.
        sources: The float files, by the kinds that `Peer.source` names.
        samples: To calibrate on.
        folder: Where the files are kept.
        targets: The runtimes wanted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for peer in peers:
        if peer.runtime not in targets or peer.source not in sources:
            continue
        path = folder / (slug(f"{peer.runtime} {peer.name}") + int8_peers.SUFFIXES[peer.runtime])
        file = File(peer.name, peer.runtime, path)
        if not path.exists():
            try:
                peer.make(sources[peer.source], samples, path)
                _session(file)
            except Exception as error:  # noqa: BLE001  peers raise anything; a row may be missing
                print(f"{peer.name}: {type(error).__name__}: {str(error)[:300]}", flush=True)
                path.unlink(missing_ok=True)
                continue
        files.append(file)
    return files


def slug(name: str) -> str:
    """Returns a name as a file's."""
    return name.replace(", ", "-").replace(" ", "-")


def answers(file: File, samples: Sequence[Array]) -> Array:
    """Returns the first output for every sample, which are run one by one."""
    session = _session(file)
    rows = []
    for index in range(len(samples[0])):
        sample = [column[index : index + 1] for column in samples]
        rows.append(session.run(encoded(file, sample))[0])
    return decoded(file, np.concatenate(rows))


def accuracies(file: File, tests: Mapping[str, Array], labels: Array) -> dict[str, float]:
    """Returns the share of right answers on each test set; they have the same labels."""
    return {
        name: float((answers(file, [images]).argmax(axis=1) == labels).mean())
        for name, images in tests.items()
    }


def add_losses(rows: Sequence[dict[str, Any]]) -> None:
    """Adds the points that each file loses against the float file of its runtime."""
    original = {row["runtime"]: row for row in rows if row["file"] == FLOAT}
    for row in rows:
        for name in ("clean", "hard"):
            lost = 100 * (original[row["runtime"]][name] - row[name])
            row[f"{name}: points lost"] = round(lost, 2)


def cosine(actual: Array, expected: Array) -> float:
    """Returns the smallest cosine similarity of a sample's outputs; samples lie along axis 0."""
    one, other = (array.reshape(len(array), -1).astype(np.float64) for array in (actual, expected))
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(((one * other).sum(axis=1) / norms).min())


def encoded(file: File, sample: Sequence[Array]) -> list[Array]:
    """Returns a sample as the file takes it: codes where a TFLite file has integer inputs."""
    if file.runtime != "tflite":
        return list(sample)
    details, _ = _details(file.path)
    return [int8_peers.quantized_input(d, a) for d, a in zip(details, sample, strict=True)]


def decoded(file: File, array: Array) -> Array:
    """Returns a file's first output in floats, where it is codes of a TFLite file."""
    if file.runtime != "tflite":
        return array
    scale, zero = _details(file.path)[1][0]["quantization"]
    return (array.astype(np.float32) - zero) * np.float32(scale) if scale else array


def measure(
    files: Sequence[File],
    sample: Sequence[Array],
    figures: Callable[[File], dict[str, float]],
    rounds: int = timing.ROUNDS,
    beside: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Returns a row a file: its size, its figures, and its times as multiples of others'.

    Args:
        files: Of any runtimes.
        sample: The inputs to time with, a batch of one.
        figures: Of accuracy or the like.
        rounds: As `timing.time_rounds` takes them.
        beside: Files to compare times with, beside float and the best peer: what to call each in
            the column's head, and its name.
    """
    rows = []
    for runtime in dict.fromkeys(file.runtime for file in files):
        group = [file for file in files if file.runtime == runtime]
        runs = {}
        for file in group:
            arrays = encoded(file, sample)
            runs[file.name] = bare_run(runtime, file.path, file.options, arrays)
        times = timing.time_rounds(runs, rounds)
        peers = {file.name: times[file.name] for file in group if file.is_peer}
        others = {"float": FLOAT, **(beside or {})}
        if peers:
            others["best peer"] = timing.fastest(peers)
        for file in group:
            row = {"runtime": runtime, "file": file.name, "bytes": file.file_bytes}
            rows.append(row | figures(file) | _times(times, file.name, others))
    return rows


def _times(
    times: Mapping[str, timing.Times], name: str, others: Mapping[str, str]
) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for kind in ("wall_us", "processor_us"):
        row[kind] = round(float(np.median(getattr(times[name], kind))), 1)
        for label, other in others.items():
            if other in times:
                row[f"{kind} / {label}"] = timing.ratio(times[name], times[other], kind)
    return row


def _session(file: File) -> Any:
    return runtimes.load(file.runtime, file.path, threads=1, options=file.options)


@lru_cache
def _details(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns what a TFLite file says of its inputs and outputs."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    return list(interpreter.get_input_details()), list(interpreter.get_output_details())
