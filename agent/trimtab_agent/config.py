"""The agent's configuration file. firmware/agent.example.toml shows it whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from trimtab_agent.broker_url import BrokerUrl, parse_broker_url
from trimtab_agent.contract.topics import check_device_id
from trimtab_agent.errors import CallerError, ConfigError

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


class Config(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One device's settings. Relative paths start at the directory of the file.

    Attributes:
        device: The device's id: 1 to 64 letters, digits, `_` or `-`; unique in the fleet.
        profile: Id of the hardware profile of this kind of device.
        broker: `mqtt://HOST` or `mqtt://HOST:PORT`.
        state_dir: Where packages and state are kept. For this agent alone.
        root: The repository's `1.root.json`: the one thing that is trusted without proof.
        timeout_s: Longest silence of the broker before something counts as missing.
        measure: How models are measured.
    """

    device: str
    profile: Annotated[str, msgspec.Meta(min_length=1)]
    broker: str
    state_dir: str
    root: str
    timeout_s: Seconds = 30.0
    measure: MeasureConfig = MeasureConfig()

    @property
    def broker_url(self) -> BrokerUrl:
        """The broker's address; `load_config` has checked it."""
        return parse_broker_url(self.broker)

    @property
    def state_path(self) -> Path:
        """`state_dir` as an absolute path."""
        return Path(self.state_dir)

    @property
    def root_path(self) -> Path:
        """`root` as an absolute path."""
        return Path(self.root)


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
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    _check(path, "$.device", check_device_id, config.device)
    _check(path, "$.broker", parse_broker_url, config.broker)
    base = path.resolve().parent
    return msgspec.structs.replace(
        config, state_dir=str(base / config.state_dir), root=str(base / config.root)
    )


def _check(path: Path, place: str, check: Callable[[str], object], value: str) -> None:
    """Turns a setting's own error into one that names the file and the setting."""
    try:
        check(value)
    except CallerError as error:
        raise ConfigError(f"{path}: {error} - at `{place}`") from error
