"""What `trimtab compress` leaves in a folder: `compressed.json`, read and written."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import msgspec

from trimtab.errors import RecipeError
from trimtab.targets import Comparison
from trimtab.targets.placed import PlacedOperator
from trimtab.targets.speed import Speed
from trimtab.targets.writing import Option
from trimtab.workflow.standing import StepSummary
from trimtab_agent.contract import codec
from trimtab_agent.contract.manifest import (
    Counts,
    Effect,
    Evaluation,
    GoldenTask,
    Lineage,
    RuntimeName,
    TensorSpec,
)

COMPRESSED_FILE = "compressed.json"
GOLDEN_FILE = "golden.npz"

_TOOLS = (
    "tensorflow-cpu",
    "tensorflow",
    "keras",
    "tf2onnx",
    "onnx",
    "onnx-ir",
    "onnxruntime",
    "openvino",
    "ai-edge-litert",
    "numpy",
    "trimtab",
)


class Compressed(msgspec.Struct, kw_only=True, frozen=True):
    """A compressed model for one target, as `compressed.json` tells it.

    Attributes:
        format: Always 1.
        created: UTC, RFC 3339.
        profile: Id of the hardware profile.
        target: The runtime.
        model: Name of the file to load.
        files: Names of all files that belong to it.
        file_bytes: All of them together.
        weight_bytes: The weights as stored.
        wire_bytes: The files as they travel, golden samples and manifest aside.
        counts: Multiply-accumulates and parameters, of this and of the original.
        inputs: As the runtime knows them.
        outputs: Likewise.
        labels: Class names by class number, if the data names them.
        threads: How many threads it gets.
        options: Session options that the file needs, by the runtime's own names.
        runtime_version: What it was checked with.
        comparison: The export gate's: the file against the graph that it was made from.
        fidelity: The file against the original model on some samples; None where a recipe has
            changed what the outputs are.
        speed: The file against the float file of the same graph, on this machine; None where
            nothing is quantized.
        float_operators: Operators that stayed float although activations are integers, and why;
            None where activations are float by intention.
        evaluation: The file against the original, on all test samples; None without data.
        effects: What became of each class and group, if there are any.
        golden_max_abs_error: How far a device may be from `golden.npz`.
        golden_task: What it must reach by the labels in `golden.npz`, if there are any.
        lineage: Where it came from.
        steps: What each step did.
        left_out: Techniques that an interrupt kept from being done, or from being done to their
            end; then this is the best that there was at that time.
    """

    format: Literal[1] = 1
    created: str
    profile: str
    target: RuntimeName
    model: str
    files: tuple[str, ...]
    file_bytes: int
    weight_bytes: int
    wire_bytes: int
    counts: Counts
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str, ...] | None = None
    threads: int
    options: dict[str, Option] = {}
    runtime_version: str
    comparison: Comparison
    fidelity: Comparison | None = None
    speed: Speed | None = None
    float_operators: tuple[PlacedOperator, ...] | None = None
    evaluation: Evaluation | None
    effects: tuple[Effect, ...] | None = None
    golden_max_abs_error: float
    golden_task: GoldenTask | None = None
    lineage: Lineage
    steps: tuple[StepSummary, ...]
    left_out: tuple[str, ...] = ()


def read_compressed(directory: Path) -> Compressed:
    """Reads the `compressed.json` of a folder that `Compressor.write` has made.

    Raises:
        RecipeError: There is none.
        FormatError: It is malformed.
    """
    path = directory / COMPRESSED_FILE
    if not path.is_file():
        raise RecipeError(f"{directory} has no {COMPRESSED_FILE}; make it with: trimtab compress")
    return codec.decode(path.read_bytes(), Compressed, what=str(path))


def tool_versions() -> dict[str, str]:
    """Returns the versions of what a package is made with, those that are installed."""
    found = {"python": platform.python_version()}
    for name in _TOOLS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
