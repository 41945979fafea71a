"""The agent's configuration file. firmware/agent.example.toml shows it whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from trimtab_agent.broker_url import BrokerUrl, parse_broker_url
from trimtab_agent.contract.topics import check_device_id
from trimtab_agent.errors import CallerError, ConfigError
from trimtab_agent.hours import parse_hours
from trimtab_agent.identity import Identity
from trimtab_agent.source_url import open_source

Seconds = Annotated[float, msgspec.Meta(gt=0)]


class MeasureConfig(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How models are measured: the table `[measure]`.

    Attributes:
        plan: `quick`, a few seconds, or `normal`, some minutes, for figures that are kept.
        duration_s: Length of the timed part, in place of the plan's.
        energy_s: Length of the energy pass under load, in place of the plan's.
    """

    plan: Literal["quick", "normal"] = "quick"
    duration_s: Seconds | None = None
    energy_s: Seconds | None = None


Command = Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]


class HooksConfig(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Commands around a switch: the table `[hooks]`. Each is a program and its arguments.

    Attributes:
        before_switch: Run before a version becomes active; its failure refuses the package.
        after_switch: Run when a version is active, on trial; its failure rolls back.
        after_rollback: Run when the version before is active again.
        timeout_s: Longest time that one of them may take.
    """

    before_switch: Command | None = None
    after_switch: Command | None = None
    after_rollback: Command | None = None
    timeout_s: Seconds = 60.0


class HealthConfig(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How the device itself judges a version on trial: the table `[health]`.

    Attributes:
        command: A program and its arguments; it ends with 0 if all is well.
        interval_s: Time between two runs.
        timeout_s: Longest time that one run may take.
        failures: How often in a row it may fail.
    """

    command: Command | None = None
    interval_s: Seconds = 10.0
    timeout_s: Seconds = 30.0
    failures: Annotated[int, msgspec.Meta(ge=0)] = 0


class TransferConfig(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """When and how fast packages are fetched: the table `[transfer]`.

    Attributes:
        max_bytes_per_s: Most bytes of chunks that are asked for in a second.
        hours: Local time in which they are, such as `"01:00-05:00"`; several with commas.
        sources: Folders and HTTP servers to try before the broker, which neither limit concerns:
            `file:/PATH`, `http://HOST/PATH`, `https://HOST/PATH`.
        ca_file: For https, certificates to trust in place of the system's.
    """

    max_bytes_per_s: Annotated[int, msgspec.Meta(gt=0)] | None = None
    hours: str | None = None
    sources: tuple[str, ...] = ()
    ca_file: str | None = None


class Config(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One device's settings. Relative paths start at the directory of the file.

    Attributes:
        device: The device's id: 1 to 64 letters, digits, `_` or `-`; unique in the fleet.
        profile: Id of the hardware profile of this kind of device.
        broker: `mqtts://HOST:PORT`, or `mqtt://HOST:PORT` without TLS; by default what the
            enrolment brought.
        state_dir: Where packages and state are kept. For this agent alone.
        root: The repository's `1.root.json`: the one thing that is trusted without proof; by
            default what the enrolment brought.
        timeout_s: Longest silence of the broker before something counts as missing.
        transfer: When and how fast packages are fetched.
        measure: How models are measured.
        hooks: Commands around a switch.
        health: How a version on trial is judged.
    """

    device: str
    profile: Annotated[str, msgspec.Meta(min_length=1)]
    broker: str | None = None
    state_dir: str
    root: str | None = None
    timeout_s: Seconds = 30.0
    transfer: TransferConfig = TransferConfig()
    measure: MeasureConfig = MeasureConfig()
    hooks: HooksConfig = HooksConfig()
    health: HealthConfig = HealthConfig()

    @property
    def broker_url(self) -> BrokerUrl:
        """The broker's address.

        Raises:
            IdentityError: None is configured, and the device is not enrolled.
        """
        return self.identity.broker_url if self.broker is None else parse_broker_url(self.broker)

    @property
    def identity(self) -> Identity:
        """What enrolment brought to this device."""
        return Identity(self.state_path)

    @property
    def state_path(self) -> Path:
        """`state_dir` as an absolute path."""
        return Path(self.state_dir)

    @property
    def root_path(self) -> Path:
        """`root` as an absolute path, or where enrolment puts it."""
        return self.identity.root_path if self.root is None else Path(self.root)


def load_config(path: Path) -> Config:
    """Reads and checks a configuration file.

    Raises:
        ConfigError: It cannot be read, is no TOML, or has a setting that is missing, unknown or
            wrong; the message names the file and the setting.
    """
    try:
        config = msgspec.toml.decode(path.read_bytes(), type=Config)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        # ValueError: bytes that are no UTF-8, and Python's own for a number of 5,000 digits.
        raise ConfigError(f"{path}: {error}") from error
    _check(path, "$.device", check_device_id, config.device)
    if config.broker is not None:
        _check(path, "$.broker", parse_broker_url, config.broker)
    if config.transfer.hours is not None:
        _check(path, "$.transfer.hours", parse_hours, config.transfer.hours)
    for number, url in enumerate(config.transfer.sources):
        _check(path, f"$.transfer.sources[{number}]", open_source, url)
    base = path.resolve().parent
    root = None if config.root is None else str(base / config.root)
    return msgspec.structs.replace(config, state_dir=str(base / config.state_dir), root=root)


def _check(path: Path, place: str, check: Callable[[str], object], value: str) -> None:
    """Turns a setting's own error into one that names the file and the setting."""
    try:
        check(value)
    except CallerError as error:
        raise ConfigError(f"{path}: {error} - at `{place}`") from error
