"""Whether a package can run on a device, before any of it is fetched. Pure."""

from __future__ import annotations

from trimtab_agent.contract.manifest import Manifest
from trimtab_agent.contract.messages import Inventory
from trimtab_agent.errors import (
    ArchitectureError,
    RuntimeUnavailableError,
    TooLittleMemoryError,
)


def check_suits(manifest: Manifest, inventory: Inventory) -> None:
    """Checks what a package needs against what the device has.

    Raises:
        ArchitectureError: It is for other processors.
        TooLittleMemoryError: It needs more main memory.
        RuntimeUnavailableError: The package's runtime is not installed.
    """
    package = f"{manifest.name} {manifest.version}"
    hardware = manifest.hardware
    if hardware.architectures and inventory.architecture not in hardware.architectures:
        raise ArchitectureError(
            f"{package} is for {', '.join(hardware.architectures)}; this device is "
            f"{inventory.architecture}"
        )
    if hardware.min_ram_bytes is not None and inventory.ram_bytes < hardware.min_ram_bytes:
        raise TooLittleMemoryError(
            f"{package} needs {hardware.min_ram_bytes} bytes of memory; this device has "
            f"{inventory.ram_bytes}"
        )
    if manifest.runtime.name not in inventory.runtimes:
        there = ", ".join(sorted(inventory.runtimes)) or "none"
        raise RuntimeUnavailableError(
            f"{package} needs the runtime {manifest.runtime.name}; on this device: {there}"
        )
