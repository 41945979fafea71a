"""Whether a model has the inputs and outputs that its package's manifest tells the application.

The golden samples prove that the model runs; they do not prove that what the application is told
of it is right. An application that scales its input by a zero point which is not the file's, or
looks an output up by a name which is another's, is wrong on every sample of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import msgspec

from trimtab_agent.contract.manifest import Quantization, TensorSpec
from trimtab_agent.errors import FormatError
from trimtab_agent.runtimes import Session
from trimtab_agent.runtimes.base import show_shape

# Scales are float32 in a file and decimal text in a manifest.
_SCALE_TOLERANCE = 1e-6


class Interface(msgspec.Struct, kw_only=True, frozen=True):
    """What a manifest says of a model's edges.

    Attributes:
        inputs: In the model's order.
        outputs: In the model's order.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def check_interface(session: Session, told: Interface) -> None:
    """Compares what the manifest tells with what the runtime has loaded.

    A dimension that either side leaves free fits any, and an output of which the runtime does
    not know the shape fits every shape: the golden samples hold those against the arrays.

    Raises:
        FormatError: A number, name, dtype, shape or quantization differs; all are named.
    """
    faults = [
        *_faults("input", told.inputs, session.inputs),
        *_faults("output", told.outputs, session.outputs),
    ]
    if faults:
        raise FormatError(f"the manifest does not describe the model: {'; '.join(faults)}")


def _faults(role: str, told: Sequence[TensorSpec], loaded: Sequence[TensorSpec]) -> Iterator[str]:
    """Yields what differs."""
    if len(told) != len(loaded):
        yield f"it tells of {len(told)} {role}s, the model has {len(loaded)}"
        return
    for index, (said, found) in enumerate(zip(told, loaded, strict=True)):
        place = f"{role} {index}"
        if said.name != found.name:
            yield f"{place} is told to be {said.name!r}, and is {found.name!r}"
        if said.dtype != found.dtype:
            yield f"{place} ({found.name}) is told to be {said.dtype}, and is {found.dtype}"
        is_known = role == "input" or bool(found.shape)
        if is_known and not _may_be_same(said.shape, found.shape):
            yield (
                f"{place} ({found.name}) is told to have the shape {show_shape(said.shape)}, "
                f"and has {show_shape(found.shape)}"
            )
        if not _same_quantization(said.quantization, found.quantization):
            yield f"{place} ({found.name}) is told other scales or zero points than it has"


def _may_be_same(one: Sequence[int | None], other: Sequence[int | None]) -> bool:
    """Says whether some shape fits both."""
    return len(one) == len(other) and all(
        left is None or right is None or left == right
        for left, right in zip(one, other, strict=True)
    )


def _same_quantization(said: Quantization | None, found: Quantization | None) -> bool:
    """Compares what integers stand for, where both sides tell: not every runtime does."""
    if said is None or found is None:
        return True
    return (
        said.zero_points == found.zero_points
        and said.axis == found.axis
        and len(said.scales) == len(found.scales)
        and all(
            math.isclose(one, other, rel_tol=_SCALE_TOLERANCE)
            for one, other in zip(said.scales, found.scales, strict=True)
        )
    )
