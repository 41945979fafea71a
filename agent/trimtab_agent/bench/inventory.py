"""What the device is, for its status and its reports."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import psutil

import trimtab_agent
from trimtab_agent.contract.messages import Inventory
from trimtab_agent.power import detect
from trimtab_agent.runtimes import available

_ROOT = Path("/")


def inventory(profile: str, *, root: Path = _ROOT) -> Inventory:
    """Describes this machine.

    Args:
        profile: Profile id from the device's configuration.
        root: The folder that `sys` and `proc` are in: `/` but for tests.
    """
    power = detect(root).source
    return Inventory(
        profile=profile,
        architecture=platform.machine(),
        cpu_model=_cpu_model(root),
        cores=len(os.sched_getaffinity(0)),
        ram_bytes=psutil.virtual_memory().total,
        os=_os_name(),
        kernel=platform.release(),
        python=platform.python_version(),
        agent_version=trimtab_agent.__version__,
        runtimes=available(),
        power_source=None if power is None else power.name,
    )


def _cpu_model(root: Path) -> str | None:
    """Returns the processor's name, or on ARM, where the kernel gives none, the board's."""
    try:
        match = re.search(
            r"^model name\s*:\s*(.+)$", (root / "proc/cpuinfo").read_text(), re.MULTILINE
        )
        if match:
            return match[1].strip()
        # Device tree strings end with a zero byte.
        return (root / "proc/device-tree/model").read_text().rstrip("\0")
    except OSError:
        return None


def _os_name() -> str:
    """Returns name and version of the distribution, or of the system where it has no such file."""
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()
