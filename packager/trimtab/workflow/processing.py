"""What the application must do before and after the model: as the data says, or as a file does.

inputs:
  image:
    - {do: resize, height: 224, width: 224}
    - {do: scale, factor: 0.00392156862745}
outputs:
  scores:
    - {do: softmax}
    - {do: argmax}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from trimtab.evaluate.data import Dataset
from trimtab.yaml_text import decode_yaml
from trimtab_agent.contract.manifest import GoldenTask, TensorSpec
from trimtab_agent.contract.processing import Argmax, Step, Threshold, faults, tag
from trimtab_agent.errors import CallerError, FormatError

Specs = tuple[TensorSpec, ...]
_Steps = Mapping[str, tuple[Step, ...]]


class _File(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The file as it is written: steps by the name of an input or output."""

    inputs: dict[str, tuple[dict[str, Any], ...]] = {}
    outputs: dict[str, tuple[dict[str, Any], ...]] = {}


def declare(
    inputs: Specs, outputs: Specs, dataset: Dataset | None, task: GoldenTask | None
) -> tuple[Specs, Specs]:
    """Returns the inputs and outputs with the steps that follow from the data.

    Only a folder of images says what is done to an input. What is done to the first output
    follows from the task: the largest score is the answer, or one above the threshold.

    Args:
        inputs: As the runtime knows them.
        outputs: Likewise.
        dataset: The data, if there is any.
        task: What the golden samples' labels are held against.
    """
    if dataset is not None and dataset.processing:
        inputs = _with_steps(inputs, {inputs[0].name: dataset.processing})
    if task is not None and task.metric != "rmse":
        answer = Argmax() if task.threshold is None else Threshold(above=task.threshold)
        outputs = _with_steps(outputs, {outputs[0].name: (answer,)})
    return inputs, outputs


def read_processing(path: Path, inputs: Specs, outputs: Specs) -> tuple[Specs, Specs]:
    """Returns the inputs and outputs with the steps of a file.

    An input or output that the file does not name keeps its steps; an empty list takes them away.

    Raises:
        CallerError: The file cannot be read, or is malformed, or names what is not there; all
            steps at fault are named at once.
    """
    try:
        file = decode_yaml(path.read_bytes(), _File)
    except OSError as error:
        raise CallerError(f"cannot read {path}: {error.strerror}") from error
    except FormatError as error:
        raise CallerError(f"{path}: {error}") from error
    names = frozenset(spec.name for spec in outputs)
    found: list[str] = []
    changed = []
    for role, specs, given in (("input", inputs, file.inputs), ("output", outputs, file.outputs)):
        steps = {name: _steps(f"{role} {name!r}", raw, found) for name, raw in given.items()}
        own = [spec.name for spec in specs]
        for name, of_name in steps.items():
            if name not in own:
                found.append(f"the model has no {role} {name!r}; it has {', '.join(own)}")
            found += faults(f"{role} {name!r}", of_name, of_input=role == "input", outputs=names)
        changed.append(_with_steps(specs, steps))
    if found:
        raise CallerError(f"{path}: {'; '.join(found)}")
    return changed[0], changed[1]


def _steps(place: str, raw: Sequence[dict[str, Any]], found: list[str]) -> tuple[Step, ...]:
    """Reads the steps of one input or output; what is wrong with them is added to `found`.

    A manifest's reader ignores fields that it does not know. Here, where a person typed them, they
    are typing mistakes.
    """
    steps = []
    for number, entry in enumerate(raw, 1):
        try:
            step = msgspec.convert(entry, Step, strict=True)
        except msgspec.ValidationError as error:
            found.append(f"{place}, step {number}: {error}")
            continue
        unknown = sorted(entry.keys() - {"do", *step.__struct_fields__})
        if unknown:
            found.append(f"{place}, step {number}: {tag(step)!r} has no {', '.join(unknown)}")
        steps.append(step)
    return tuple(steps)


def _with_steps(specs: Specs, steps: _Steps) -> Specs:
    """Returns the specs, those that are named with their steps."""
    return tuple(
        msgspec.structs.replace(spec, processing=steps.get(spec.name, spec.processing))
        for spec in specs
    )
