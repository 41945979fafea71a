"""The hardware profile: what is known of a kind of device, each figure with its source.

Profiles are YAML files in `profiles/`; this module is their schema. A figure that nobody has
published or measured is absent.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from trimtab_agent.contract.manifest import Option, RuntimeName

Positive = Annotated[float, msgspec.Meta(gt=0)]
Architecture = Literal["x86_64", "aarch64", "armv7l"]
Confidence = Literal["datasheet", "measured", "published", "assumed"]


class Figure(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A number with where it came from.

    Attributes:
        value: The number, in the unit that the field's name ends with.
        source: A document, a command, or a measurement with its machine.
        confidence: `datasheet`: the maker's; `measured`: by us; `published`: by someone else;
            `assumed`: a choice, not a fact.
    """

    value: Positive
    source: str
    confidence: Confidence


class Cores(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A cluster of equal cores; None where the profile covers many machines."""

    microarchitecture: str | None = None
    count: int | None = None
    max_mhz: Figure | None = None


class ProfileRuntime(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A runtime that the device has, best first.

    Attributes:
        name: The runtime.
        dtypes: What it runs fast here: `float32`, `float16`, `int8`, `int4`.
        options: Session options that the device wants, such as the provider that has its
            accelerator; `session_options.py` has their names and types. They go into the manifest.
        form: Of files for ONNX Runtime: `ort` where the device has one of its minimal builds.
    """

    name: RuntimeName
    dtypes: tuple[Literal["float32", "float16", "int8", "int4"], ...]
    options: dict[str, Option] = {}
    form: Literal["onnx", "ort"] = "onnx"


class PowerSensor(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A power sensor that such a device is known to have.

    Attributes:
        source: The agent's name for it, such as `rapl` or `ina3221`.
        scope: What it sees.
        note: What to beware of.
    """

    source: str
    scope: Literal["soc", "module", "board", "wall"]
    note: str = ""


class Profile(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One kind of device.

    Attributes:
        id: File name without `.yaml`.
        title: For people.
        architecture: `platform.machine()`.
        isa: Flags of /proc/cpuinfo that matter to kernels, such as `asimddp`.
        cores: Clusters, biggest first.
        ram_bytes: Main memory.
        memory_bandwidth_bytes_per_s: Theoretical.
        channel_multiple: Channel counts are kept to multiples of this: the vector width of the
            fastest int8 kernels. Odd counts make int8 slower.
        threads: How many threads a model gets.
        runtimes: Best first; nothing is exported for a runtime that is not listed.
        power: Sensors to expect; empty when such devices have none.
        throttle_c: Temperature at which the device slows down.
    """

    id: str
    title: str
    architecture: Architecture
    isa: tuple[str, ...] = ()
    cores: tuple[Cores, ...] = ()
    ram_bytes: Figure | None = None
    memory_bandwidth_bytes_per_s: Figure | None = None
    channel_multiple: Figure
    threads: Annotated[int, msgspec.Meta(ge=1)] = 1
    runtimes: tuple[ProfileRuntime, ...]
    power: tuple[PowerSensor, ...] = ()
    throttle_c: Figure | None = None
