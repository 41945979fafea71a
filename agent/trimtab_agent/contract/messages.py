"""The messages between host and device. docs/formats/messages.md is the prose form."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from trimtab_agent.contract.manifest import TaskMetric
from trimtab_agent.contract.measurement import Comparison, GateResult, Measurement

Ratio = Annotated[float, msgspec.Meta(gt=0)]
Counter = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""Counts what one device was told. Databases on both sides keep it in 64 bits with a sign."""


ASSIGNMENT_CONTEXT = b"trimtab assignment v1\n"
"""Put before the payload when it is signed, so that a signature made for something else can
never pass for one over an assignment."""

ASSIGNMENT_KEYS_TARGET = "assignment-keys.json"
"""TUF target that lists the keys which may sign assignments. It is signed by the offline targets
key, so the online assignment key can be replaced without touching a device
(docs/decisions/0004)."""


class Gates(msgspec.Struct, kw_only=True, frozen=True):
    """What a package must show by measurement before it may run. None: not asked for.

    Attributes:
        budget: Whether the limits of the manifest's budget count.
        latency_ratio: Largest 95th percentile of latency, as a multiple of the running version's.
        memory_ratio: Largest resident set, likewise.
        energy_ratio: Largest net energy of one inference, likewise.
    """

    budget: bool = True
    latency_ratio: Ratio | None = 1.1
    memory_ratio: Ratio | None = 1.1
    energy_ratio: Ratio | None = 1.1


class Assignment(msgspec.Struct, kw_only=True, frozen=True):
    """What one device should run.

    Attributes:
        device: The device it is for; any other device refuses it.
        counter: Rises with every assignment for this device; a device refuses a lower one.
        target: TUF target name of the package's manifest.
        issued: UTC, RFC 3339.
        expires: UTC, RFC 3339; refused afterwards.
        trial: Copied into the report, such as the id of a candidate in a search.
        gates: What it must show by measurement. The ratios hold against a running version of the
            same package name; another package has nothing to be compared with.
        probation_s: How long it runs on trial before it is committed.
        group: Whose broadcast of chunks to listen to, or None.
    """

    device: str
    counter: Counter
    target: str
    issued: str
    expires: str
    trial: str | None = None
    gates: Gates = Gates()
    probation_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    group: str | None = None


class Signature(msgspec.Struct, kw_only=True, frozen=True):
    """One signature.

    Attributes:
        keyid: Hex SHA-256 of the raw public key.
        signature: Ed25519, 64 bytes, over `ASSIGNMENT_CONTEXT + payload`.
    """

    keyid: str
    signature: bytes


class Signed(msgspec.Struct, kw_only=True, frozen=True):
    """A payload with signatures over its exact bytes, so that no canonical form is needed."""

    payload: bytes
    signatures: tuple[Signature, ...]


class AssignmentKeys(msgspec.Struct, kw_only=True, frozen=True):
    """The public keys that may sign assignments: raw Ed25519, 32 bytes each, by key id."""

    keys: dict[str, bytes]


class RuntimeInfo(msgspec.Struct, kw_only=True, frozen=True):
    """A runtime that this device can load: its distribution's name and version."""

    distribution: str
    version: str


class Inventory(msgspec.Struct, kw_only=True, frozen=True):
    """What the device is. None where it cannot be read.

    Attributes:
        profile: Profile id from the device's configuration.
        architecture: `platform.machine()`.
        cpu_model: As the kernel names it.
        cores: Logical CPUs that the agent may use.
        ram_bytes: Main memory.
        os: Name and version of the operating system.
        kernel: Kernel release.
        python: Python version.
        agent_version: Version of trimtab-agent.
        runtimes: Runtimes that can be imported, by their name in a manifest.
        power_source: The power sensor that gave a reading, or None.
    """

    profile: str
    architecture: str
    cpu_model: str | None
    cores: int
    ram_bytes: int
    os: str
    kernel: str
    python: str
    agent_version: str
    runtimes: dict[str, RuntimeInfo]
    power_source: str | None


class Status(msgspec.Struct, kw_only=True, frozen=True):
    """Whether the device is there. The broker publishes `online=False` when it goes.

    Attributes:
        device: The device.
        online: Whether it is connected.
        active: TUF target name of the package that is active, or None.
        inventory: What the device is; None in the last will.
        paused: Whether it begins nothing new: what is assigned to it waits.
    """

    device: str
    online: bool
    active: str | None = None
    inventory: Inventory | None = None
    paused: bool = False


State = Literal[
    "assigned",
    "fetching",
    "verifying",
    "staged",
    "checked",
    "measured",
    "trial",
    "committed",
    "rolled_back",
    "refused",
]
"""Steps of an update, in order; `refused` ends it before the switch, `rolled_back` after it."""


class Progress(msgspec.Struct, kw_only=True, frozen=True):
    """A step of an update, as it happens; lost if nobody listens.

    Attributes:
        device: The device.
        counter: The assignment's counter.
        target: The package.
        state: The step that was reached.
        detail: A few words for people.
    """

    device: str
    counter: Counter
    target: str
    state: State
    detail: str = ""


class Transfer(msgspec.Struct, kw_only=True, frozen=True):
    """What was fetched.

    Attributes:
        chunks: Distinct chunks in the package.
        chunks_reused: Those that were on the device already.
        wire_bytes: Bytes of the chunks that were fetched.
        duration_s: From the first request to the last verified chunk, with every wait between.
        by_way: How many came by which way, such as `broadcast`, `retained`, `asked`, `folder`;
            None in reports of agents before this field.
        rejected: Chunks that came with wrong bytes and were fetched anew; None likewise.
    """

    chunks: int
    chunks_reused: int
    wire_bytes: int
    duration_s: float
    by_way: dict[str, int] | None = None
    rejected: int | None = None


class TaskCheck(msgspec.Struct, kw_only=True, frozen=True):
    """The golden samples' labels on this device.

    Attributes:
        metric: What was computed (`manifest.TaskMetric`).
        value: On this device.
        host_value: On the host.
        limit: The worst that the package accepts.
    """

    metric: TaskMetric
    value: float
    host_value: float
    limit: float


class GoldenCheck(msgspec.Struct, kw_only=True, frozen=True):
    """The golden samples on this device.

    Attributes:
        samples: How many.
        max_abs_error: How far an output was from the package's, at most.
        limit: How far it may be.
        task: What the labels say; None if the package has none.
    """

    samples: int
    max_abs_error: float
    limit: float
    task: TaskCheck | None = None


class HealthCheck(msgspec.Struct, kw_only=True, frozen=True):
    """The device's own check of a version on trial.

    Attributes:
        runs: How often the health command was run; 0 where the device has none.
        failures: How often it failed.
        probation_s: How long the version was on trial.
    """

    runs: int
    failures: int
    probation_s: float


class Failure(msgspec.Struct, kw_only=True, frozen=True):
    """Why an update ended early.

    Attributes:
        state: The last state that was reached.
        reason: The error's stable word.
        message: The error's text.
    """

    state: State
    reason: str
    message: str


class Report(msgspec.Struct, kw_only=True, frozen=True):
    """The outcome of one assignment. Kept on the device until the host acknowledges it.

    Attributes:
        id: Unique; the host stores each once.
        device: The device.
        counter: The assignment's counter.
        target: TUF target name of the package.
        target_sha256: Of the manifest; None if it was never trusted.
        trial: The assignment's `trial`.
        outcome: `active` if the package now runs; `rolled_back` or `refused` if the one before
            does.
        active: What is active afterwards, or None.
        failure: Why, when the outcome is not `active`.
        transfer: What was fetched, if it came to that.
        golden: The check, if it came to that.
        measurement: What was measured, if it came to that.
        comparison: The running version beside it, if there was one to compare with.
        gates: The limits it was held against.
        health: How its trial went, if it came to that.
        reports_lost: How many older reports gave way to this one, because too many waited.
        inventory: What the device is.
        started: UTC, RFC 3339.
        finished: UTC, RFC 3339.
    """

    id: str
    device: str
    counter: Counter
    target: str
    target_sha256: str | None
    trial: str | None
    outcome: Literal["active", "rolled_back", "refused"]
    active: str | None
    failure: Failure | None
    transfer: Transfer | None
    golden: GoldenCheck | None
    measurement: Measurement | None
    inventory: Inventory
    started: str
    finished: str
    comparison: Comparison | None = None
    gates: tuple[GateResult, ...] = ()
    health: HealthCheck | None = None
    reports_lost: Counter = 0


class Acknowledgement(msgspec.Struct, kw_only=True, frozen=True):
    """The host has these reports on its disk; the device may drop them."""

    ids: tuple[str, ...]
