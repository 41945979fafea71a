"""The manifest: the signed description of one package. docs/formats/package.md is the prose form.

A manifest is a TUF target. It lists every file with its hash and the chunks it travels in, so
that everything a device fetches is covered by the signature over the manifest's own hash.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import msgspec

from trimtab_agent.contract import codec, processing
from trimtab_agent.errors import FormatError

FORMAT: Literal[2] = 2
"""The only format that this version reads and writes. A change that an older agent must not
ignore either raises this number or adds a word to `Manifest.requires`."""

KNOWN_FEATURES: frozenset[str] = frozenset()
"""Words in `Manifest.requires` that this agent understands. A word it does not know makes it
refuse the package; an unknown field alone is ignored (docs/decisions/0002)."""

RuntimeName = Literal["tflite", "onnxruntime", "openvino"]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9._-]{0,63}$")]
Version = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")]
Count = Annotated[int, msgspec.Meta(ge=0)]
Interval = tuple[float, float]
Option = str | int | float | bool
"""The value of a session option."""

_SAFE_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


class Quantization(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """What integers stand for: `value = scale * (integer - zero_point)`.

    Attributes:
        scales: One for the whole tensor, or one for each position along `axis`.
        zero_points: As many.
        axis: Where there are several; None for the whole tensor.
    """

    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    axis: int | None = None


class TensorSpec(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """One input or output.

    Attributes:
        name: As the runtime knows it.
        shape: None stands for a dimension that is free, such as the batch.
        dtype: numpy's name, such as `float32`.
        quantization: Of integers that stand for real numbers, where the file tells it; else None,
            and then no such field is written.
        processing: What the application does to an input before the model, to an output after
            it, in order; not written where nothing is declared.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    quantization: Quantization | None = None
    processing: tuple[processing.Step, ...] = ()


class Chunk(msgspec.Struct, kw_only=True, frozen=True):
    """A piece of a coded stream as it travels.

    Attributes:
        sha256: Of its bytes: it is checked before anything is decoded.
        wire_bytes: Their number.
    """

    sha256: Sha256
    wire_bytes: Count


class Delta(msgspec.Struct, kw_only=True, frozen=True):
    """A file as what changed since another one.

    Attributes:
        base_sha256: Of the file that a device must have.
        chunks: In the stream's order.
    """

    base_sha256: Sha256
    chunks: tuple[Chunk, ...]


class PackageFile(msgspec.Struct, kw_only=True, frozen=True):
    """A file of the package: its chunks, joined, are the coded stream that stands for it.

    Attributes:
        path: Relative, `/`-separated, no `..`.
        size_bytes: Length of the whole file.
        sha256: Of the whole file.
        chunks: In the stream's order.
        deltas: Shorter ways to the same content, from files of earlier versions.
    """

    path: str
    size_bytes: Count
    sha256: Sha256
    chunks: tuple[Chunk, ...]
    deltas: tuple[Delta, ...] = ()


class RuntimeSpec(msgspec.Struct, kw_only=True, frozen=True):
    """How to run the model.

    Attributes:
        name: The runtime.
        model: Path in the package of the file to load.
        threads: How many threads to use.
        options: Session options; `contract/session_options.py` has their names and types.
        made_with: Version of the runtime that the host checked the file with.
    """

    name: RuntimeName
    model: str
    threads: Annotated[int, msgspec.Meta(ge=1)] = 1
    options: dict[str, Option] = {}
    made_with: str | None = None


TaskMetric = Literal["top1", "token_accuracy", "rmse"]
"""What the first output is held against the labels by:

* `top1`: share of samples whose label has the largest score; a single score says class 1 above
  the threshold.
* `token_accuracy`: share of positions whose label has the largest score, along the last axis.
* `rmse`: root mean square error, in the labels' unit.

Labels of -1 are padding: they do not count.
"""


class GoldenTask(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """How well the model does its task on the golden samples, by their labels.

    Attributes:
        metric: The figure.
        value: What the packaged file reached on the host, on these very samples.
        limit: The worst that is accepted on a device: the least, of `rmse` the largest.
        threshold: From which on a single score says class 1; None for several scores.
    """

    metric: TaskMetric
    value: float
    limit: float
    threshold: float | None = None

    def accepts(self, value: float) -> bool:
        """Says whether a device's figure is good enough; NaN never is."""
        return value <= self.limit if self.metric == "rmse" else value >= self.limit


class Golden(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """Samples whose outputs the device must reproduce before the package may become active.

    Attributes:
        path: Path in the package of an `.npz` file with the arrays `in_<i>` and `out_<i>`, the
            i-th input and output of the manifest, samples along the first axis; and `labels`,
            where there is a task.
        count: Number of samples.
        max_abs_error: Largest difference from `out_<i>` that is accepted in any element.
        task: What the labels say; None, and not written, where there are none.
    """

    path: str
    count: Annotated[int, msgspec.Meta(ge=1)]
    max_abs_error: Annotated[float, msgspec.Meta(ge=0)]
    task: GoldenTask | None = None


class Hardware(msgspec.Struct, kw_only=True, frozen=True):
    """What the device must have.

    Attributes:
        architectures: `platform.machine()` values, such as `aarch64`; empty means any.
        min_ram_bytes: Smallest main memory, or None.
    """

    architectures: tuple[str, ...] = ()
    min_ram_bytes: int | None = None


class Sizes(msgspec.Struct, kw_only=True, frozen=True):
    """Three of the four sizes; the fourth, peak memory, only a device can tell.

    Attributes:
        wire_bytes: All distinct chunks together: what a device that has nothing fetches.
        file_bytes: The model file as it lies on the device's disk.
        weight_bytes: The weights as the runtime's file stores them, decoded in memory.
    """

    wire_bytes: Count
    file_bytes: Count
    weight_bytes: Count


class Counts(msgspec.Struct, kw_only=True, frozen=True):
    """Multiply-accumulates and parameters of the packaged model and of the original."""

    macs: Count
    parameters: Count
    original_macs: Count
    original_parameters: Count

    @property
    def macs_share(self) -> float:
        """What is left of the multiply-accumulates, 0 to 1; all of it where there are none."""
        return self.macs / self.original_macs if self.original_macs else 1.0

    @property
    def parameters_share(self) -> float:
        """What is left of the parameters, 0 to 1."""
        return self.parameters / self.original_parameters


class Figure(msgspec.Struct, kw_only=True, frozen=True):
    """One figure of how good a model is, with the original's beside it. Intervals are of 95 %.

    Attributes:
        name: Such as `top5` or `rmse`.
        value: The packaged file's figure.
        interval: Of `value`; None where the figure has none, as a smallest value.
        reference: The original's figure on the same samples; None if it was not run.
        reference_interval: Of `reference`.
        change_interval: Of `value - reference`, from pairs: both models saw the same samples.
        p_value: Two-sided, of the hypothesis that nothing has changed.
        test: What `p_value` comes from.
        larger_is_better: False for errors.
    """

    name: str
    value: float
    interval: Interval | None = None
    reference: float | None = None
    reference_interval: Interval | None = None
    change_interval: Interval | None = None
    p_value: float | None = None
    test: Literal["mcnemar", "paired_bootstrap"] | None = None
    larger_is_better: bool = True


class Effect(msgspec.Struct, kw_only=True, frozen=True):
    """What compression did to the samples of one class or group.

    Attributes:
        kind: Whether the samples share a label, or a group of the data's `group_test`.
        name: The class or the group.
        samples: How many.
        metric: What `value` is, such as `top1`.
        value: The packaged file's figure on these samples.
        interval: Of `value`.
        reference: The original's figure on them.
        change_interval: Of `value - reference`.
        p_value: One-sided, that they lose no more than the rest; corrected by Holm's method for
            the number of classes or groups that were looked at.
        harmed: Whether they lose, and by `p_value` at 5 % more than the rest.
    """

    kind: Literal["class", "group"]
    name: str
    samples: Count
    metric: str
    value: float
    interval: Interval
    reference: float
    change_interval: Interval
    p_value: float
    harmed: bool


class Evaluation(msgspec.Struct, kw_only=True, frozen=True):
    """How good the packaged file is, measured on the host in the file's real runtime.

    Attributes:
        metric: The figure that stands for the whole, such as `top1`; larger is better and 1 is
            perfect, whatever the task. None without labels.
        value: The packaged file's figure.
        reference: The original model's figure on the same samples.
        agreement: How far the answers are the original's, 1 for entirely; for classifiers the
            share of samples with the same top-1 answer.
        samples: How many samples.
        max_abs_error: Largest difference of any output element from the original.
        task: What the model does, such as `classification`.
        interval: Of `value`, 95 %.
        change_interval: Of `value - reference`, 95 %.
        p_value: Two-sided, of the hypothesis that `value` and `reference` differ by chance.
        agreement_metric: What `agreement` is, such as `same_top1` or `cosine`.
        agreement_interval: Of `agreement`, 95 %.
        figures: All figures, that of `metric` first.
        harmed: The classes and groups that lose more than the rest; None if there was nothing
            to tell samples apart by.
    """

    metric: str | None
    value: float | None
    reference: float | None
    agreement: float | None
    samples: int
    max_abs_error: float
    task: str | None = None
    interval: Interval | None = None
    change_interval: Interval | None = None
    p_value: float | None = None
    agreement_metric: str | None = None
    agreement_interval: Interval | None = None
    figures: tuple[Figure, ...] = ()
    harmed: tuple[Effect, ...] | None = None


class Budget(msgspec.Struct, kw_only=True, frozen=True):
    """What the device may spend. None means: no limit.

    Attributes:
        wire_bytes: Bytes to fetch for a device that has nothing.
        latency_p95_us: 95th percentile of latency.
        peak_memory_bytes: Largest resident set of the process that runs the model.
        energy_mj: Energy of one inference above idle.
        accuracy_drop: Loss against the original, as a share: 0.01 is one point.
    """

    wire_bytes: int | None = None
    latency_p95_us: float | None = None
    peak_memory_bytes: int | None = None
    energy_mj: float | None = None
    accuracy_drop: float | None = None


class Lineage(msgspec.Struct, kw_only=True, frozen=True):
    """Where the package came from, enough to make it again.

    Attributes:
        source_name: File name of the original model.
        source_sha256: Of the original model file.
        recipe: The steps that were applied, in order, with their parameters.
        seed: Seed of everything random.
        tools: Versions of what made it, by name.
    """

    source_name: str
    source_sha256: Sha256
    recipe: tuple[dict[str, Any], ...]
    seed: int
    tools: dict[str, str]


class Manifest(msgspec.Struct, kw_only=True, frozen=True):
    """One package.

    Attributes:
        format: Always `FORMAT`.
        name: The package's name, the same over its versions.
        version: Its version.
        created: UTC, RFC 3339.
        requires: Features that a reader must understand or refuse the package.
        profile: Id of the hardware profile it was made for.
        hardware: What the device must have.
        runtime: How to run it.
        inputs: In the model's order.
        outputs: In the model's order.
        labels: Class names by output index, if known.
        golden: The samples it must reproduce.
        sizes: Wire, file and weight bytes.
        counts: Multiply-accumulates and parameters, if they were counted.
        evaluation: How good it is; None when there was no data.
        budget: What it was made to meet.
        lineage: Where it came from.
        files: Everything in it.
    """

    format: Literal[2]
    name: Name
    version: Version
    created: str
    requires: tuple[str, ...] = ()
    profile: str
    hardware: Hardware
    runtime: RuntimeSpec
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str, ...] | None = None
    golden: Golden
    sizes: Sizes
    counts: Counts | None = None
    evaluation: Evaluation | None
    budget: Budget
    lineage: Lineage
    files: tuple[PackageFile, ...]

    def file(self, path: str) -> PackageFile:
        """Returns the file with this path; `parse_manifest` has checked that it is there."""
        return next(entry for entry in self.files if entry.path == path)

    @property
    def target_name(self) -> str:
        """The name of this manifest as a TUF target."""
        return target_name(self.name, self.version)


def target_name(name: str, version: str) -> str:
    """Returns the TUF target name of a package's manifest."""
    return f"{name}-{version}.json"


def parse_manifest(data: bytes, *, what: str = "manifest") -> Manifest:
    """Decodes and checks a manifest.

    Args:
        data: The manifest's JSON text.
        what: Where it came from, for messages.

    Raises:
        FormatError: It is no manifest, needs a feature that is unknown here, or contradicts
            itself. All faults of the last kind are named at once.
    """
    head = codec.decode(data, _Head, what=what)
    if head.format != FORMAT:
        raise FormatError(
            f"{what} has format {head.format}; this version reads format {FORMAT}: update Trimtab"
        )
    unknown = sorted(set(head.requires) - KNOWN_FEATURES)
    if unknown:
        raise FormatError(f"{what} requires {', '.join(unknown)}, unknown here: update Trimtab")
    manifest = codec.decode(data, Manifest, what=what)
    faults = _faults(manifest)
    if faults:
        raise FormatError(f"{what} contradicts itself: {'; '.join(faults)}")
    return manifest


class _Head(msgspec.Struct):
    """The part that every format shares; it is read before anything else is believed."""

    format: int
    requires: tuple[str, ...] = ()


def _faults(manifest: Manifest) -> list[str]:
    """Returns everything in `manifest` that contradicts something else in it."""
    paths = [entry.path for entry in manifest.files]
    repeated = sorted({path for path in paths if paths.count(path) > 1})
    faults = [f"file {path!r} is listed twice" for path in repeated]
    faults.extend(
        f"file path {path!r} leaves the package" for path in paths if not is_safe_path(path)
    )
    faults.extend(
        f"{role} {path!r} is not among the files"
        for role, path in (("model", manifest.runtime.model), ("golden", manifest.golden.path))
        if path not in paths
    )
    outputs = frozenset(spec.name for spec in manifest.outputs)
    for role, specs in (("input", manifest.inputs), ("output", manifest.outputs)):
        for spec in specs:
            place = f"{role} {spec.name!r}"
            faults += processing.faults(
                place, spec.processing, of_input=role == "input", outputs=outputs
            )
    return faults


def is_safe_path(path: str) -> bool:
    """Says whether a path in a package stays inside it on every file system.

    Relative, `/`-separated, no empty, hidden or dotted-up component, plain ASCII.
    """
    return (
        len(path) <= 200
        and _SAFE_PATH.fullmatch(path) is not None
        and not PurePosixPath(path).is_absolute()
    )
