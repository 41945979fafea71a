"""Options that several commands share, so that they mean and say the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from trimtab_agent.contract.manifest import Budget, RuntimeName

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Workspace = Annotated[
    Path,
    typer.Option(
        "--workspace",
        "-w",
        envvar="TRIMTAB_WORKSPACE",
        help="Folder with keys, packages and reports; make it with `trimtab init`.",
    ),
]
Broker = Annotated[
    str,
    typer.Option(
        "--broker",
        "-b",
        envvar="TRIMTAB_BROKER",
        help="The MQTT broker, as mqtt://HOST:PORT, or mqtts://HOST:PORT for TLS.",
    ),
]
Device = Annotated[str, typer.Option("--device", help="The device's id.")]
_DATA_HELP = (
    "An .npz with x_train, x_test and, if there are labels, y_train, y_test; a folder with a "
    "folder of images for each class; or module:function (docs/data.md)."
)
Data = Annotated[Path | None, typer.Option(help=_DATA_HELP)]
RequiredData = Annotated[Path, typer.Option("--data", help=_DATA_HELP)]
TaskName = Annotated[
    str | None,
    typer.Option(
        help="What labels are for: classification, regression, embeddings, tokens, ctc, anomaly, "
        "or module:function(outputs, labels) for a figure of your own. By default it is detected."
    ),
]
Profile = Annotated[
    str | None,
    typer.Option(
        help="Hardware profile: an id of `trimtab profiles`, or a .yaml file. "
        "By default this machine's."
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
MaxWire = Annotated[int | None, typer.Option(help="Budget: bytes on the wire.")]
MaxLatency = Annotated[
    float | None, typer.Option(help="Budget: 95th percentile of latency, in microseconds.")
]
MaxMemory = Annotated[
    int | None, typer.Option(help="Budget: peak resident bytes of the process with the model.")
]
MaxEnergy = Annotated[
    float | None, typer.Option(help="Budget: millijoules an inference above idle.")
]
MaxDrop = Annotated[
    float | None, typer.Option(help="Budget: loss of accuracy, in points of a hundred.")
]
ForbidHarm = Annotated[
    bool,
    typer.Option(
        "--forbid-harm",
        help="Refuse a model of which a class or a group loses significantly more than the rest.",
    ),
]

DEFAULT_WORKSPACE = Path("trimtab-workspace")
DEFAULT_BROKER = "mqtt://127.0.0.1:1883"


def parse_targets(text: str | None, permitted: tuple[RuntimeName, ...]) -> tuple[RuntimeName, ...]:
    """Reads a comma-separated list of targets; None means all that the profile permits.

    Raises:
        RecipeError: One is unknown or not in the profile; all such are named.
    """
    from trimtab.errors import RecipeError

    if text is None:
        return permitted
    names = [name.strip() for name in text.split(",")]
    wrong = [name for name in names if name not in permitted]
    if wrong:
        raise RecipeError(
            f"--target: the profile does not have {', '.join(map(repr, wrong))}; "
            f"it has {', '.join(permitted)}"
        )
    return tuple(name for name in permitted if name in names)


def make_budget(
    wire: int | None,
    latency_us: float | None,
    memory: int | None,
    energy_mj: float | None,
    drop_points: float | None,
) -> Budget:
    """Puts the budget's options together; accuracy goes from points to a share."""
    from trimtab_agent.contract.manifest import Budget

    return Budget(
        wire_bytes=wire,
        latency_p95_us=latency_us,
        peak_memory_bytes=memory,
        energy_mj=energy_mj,
        accuracy_drop=None if drop_points is None else drop_points / 100,
    )
