"""Which rails of a board make up its total.

On some boards one rail already contains the others, on others they must be added, and one rail of
the AGX Orin lies inside another. Only the labels tell, so a set of labels that is not listed here
is refused instead of guessed at.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from trimtab_agent.errors import DeviceError
from trimtab_agent.power.base import Scope


class Total(msgspec.Struct, kw_only=True, frozen=True):
    """What to add up.

    Attributes:
        labels: The rails.
        scope: What they see together.
        note: What a reader of the figure must know.
    """

    labels: tuple[str, ...]
    scope: Scope
    note: str = ""


# In order: the first entry whose labels are all there wins, so whole-board rails come first.
_TOTALS = (
    # Jetson Thor developer kit: an INA238 at the input of the board.
    Total(labels=("VIN",), scope="board"),
    # Orin NX, Orin Nano, Xavier NX and TX2: the module's input, which contains all others
    # (NVIDIA developer forum 200883: "total power of module").
    Total(labels=("VDD_IN",), scope="module"),
    # Jetson Nano, JetPack 4: likewise.
    Total(labels=("POM_5V_IN",), scope="module"),
    # AGX Orin has no input rail. VDDQ_VDD2_1V8AO is left out: VIN_SYS_5V0 feeds it, so adding it
    # would count it twice (NVIDIA developer forum 223111).
    Total(
        labels=("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
        scope="module",
        note="sum of the module's rails: the carrier board is not in it",
    ),
    Total(
        labels=("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),  # Thor without the INA238
        scope="module",
        note="sum of the module's rails: the carrier board is not in it",
    ),
    Total(
        labels=("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),  # AGX Xavier
        scope="module",
        note="sum of the module's rails: the carrier board is not in it",
    ),
)


def choose_total(labels: Sequence[str]) -> Total:
    """Returns which of a board's rails to add.

    Args:
        labels: Every connected rail; a chip without a name has the label "".

    Raises:
        DeviceError: The labels belong to no board that is known, or the only chip has none of
            its kind to tell it from.
    """
    for total in _TOTALS:
        if set(total.labels) <= set(labels):
            return total
    if list(labels) == [""]:
        return Total(
            labels=("",),
            scope="board",
            note="an external monitor: it is taken to be in the board's supply line",
        )
    named = ", ".join(label or "(no label)" for label in labels)
    raise DeviceError(f"which of the rails {named} make up the total is not known")
