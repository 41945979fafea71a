"""What a kind of bad package is: how it is made, and the reason that a device must give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from support.hundred_device import Device, Surroundings
from support.hundred_models import Family, Weights
from support.hundred_packages import Made, make
from support.manifests import SmallPackage

End = Literal["refused", "rolled_back", "unaccepted", "waiting"]


@dataclass(frozen=True)
class Case:
    """Where one bad package starts from: a device, and the good package it could have been.

    Attributes:
        device: On which a good version runs.
        rng: For everything that is drawn.
        weights: Of the good package.
        made: The good package; it is not released.
    """

    device: Device
    rng: np.random.Generator
    weights: Weights
    made: Made

    @property
    def family(self) -> Family:
        return self.device.family

    def remade(self, weights: Weights, **options: Any) -> Made:
        """Packs other weights properly: golden samples are their own answers."""
        made, files = self.made.manifest, self.family.write(weights)
        return make(self.family, files, self.rng, name=made.name, version=made.version, **options)


@dataclass
class Attack:
    """What the device is given.

    Attributes:
        package: What is released; None to release nothing.
        target: Name to release it under, and to assign.
        assignment: Fields of the assignment.
        key: Signs the assignment in place of the right one.
        message: The assignment's bytes, in place of a signed one.
        around: The world around the device.
        undo: Puts the world right again afterwards.
    """

    package: SmallPackage | None = None
    target: str | None = None
    assignment: Mapping[str, Any] = field(default_factory=dict)
    key: Any = None
    message: Callable[[bytes], bytes] | None = None
    around: Surroundings = field(default_factory=Surroundings)
    undo: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Kind:
    """A kind of bad package.

    Attributes:
        name: In a few words.
        reasons: Those that a device may give; the first is the usual one.
        end: How it must end.
        attack: Makes one.
        families: Kinds of models that can be so, by `Family.kind`; None for all.
        runtimes: Runtimes in which they can be so; None for all.
    """

    name: str
    reasons: tuple[str, ...]
    end: End
    attack: Callable[[Case], Attack]
    families: tuple[str, ...] | None = None
    runtimes: tuple[str, ...] | None = None

    def fits(self, family: Family) -> bool:
        """Whether a model of this family can be so."""
        return (self.families is None or family.kind in self.families) and (
            self.runtimes is None or family.runtime in self.runtimes
        )
