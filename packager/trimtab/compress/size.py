"""How many times smaller on the wire a recipe makes a model, measured without its training."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from trimtab.compress.context import Context
from trimtab.compress.recipe import Step, apply_step
from trimtab.compress.rehearsal import untrained
from trimtab.evaluate.data import Dataset
from trimtab.graph.access import constant, set_initializer
from trimtab.package.wire import wire_bytes
from trimtab_agent.contract.profile import Profile

_SAMPLED_ELEMENTS = 1_000_000
"""Coding takes a second a megabyte: of larger models a part of each weight is coded."""


class SizeMeter:
    """Measures recipes on one model.

    Args:
        model: The float model; it is left as it is.
        profile: The device that it is for.
        dataset: Samples to calibrate on; None where recipes need none.
    """

    def __init__(self, model: ir.Model, profile: Profile, dataset: Dataset | None) -> None:
        self._model = model
        self._context = Context(
            profile=profile, dataset=dataset, teacher=model, seed=0, log=lambda _: None
        )
        elements = sum(_size(value) for value in model.graph.initializers.values())
        self._share = min(1.0, _SAMPLED_ELEMENTS / max(elements, 1))
        self._float_bytes = self._bytes(model)

    def times_smaller(self, steps: Sequence[Step]) -> float:
        """Returns the float model's bytes over those that the steps leave.

        Raises:
            TrimtabError: What a step raises.
        """
        model = self._model
        for step in steps:
            if step.technique in {"fine_tune", "distil"}:
                continue
            model = apply_step(model, untrained(step), self._context)
        return self._float_bytes / self._bytes(model)

    def _bytes(self, model: ir.Model) -> int:
        with tempfile.TemporaryDirectory(prefix="trimtab-") as folder:
            path = Path(folder) / "model.onnx"
            ir.save(model if self._share == 1 else _cut(model, self._share), path)
            return wire_bytes([path])


def _cut(model: ir.Model, share: float) -> ir.Model:
    """Returns a copy with the beginning of each weight only: to be coded, not to be run."""
    copy = model.clone()
    for value in copy.graph.initializers.values():
        array = constant(value)
        if array is not None and array.size > 1:
            set_initializer(value, array.ravel()[: max(1, round(array.size * share))])
    return copy


def _size(value: ir.Value) -> int:
    return 0 if value.const_value is None else int(value.const_value.size)
