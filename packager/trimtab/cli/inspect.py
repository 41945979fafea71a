"""`trimtab inspect MODEL`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec import to_builtins

from trimtab.cli.options import Json
from trimtab.cli.output import print_json, print_table

if TYPE_CHECKING:
    from trimtab.graph.count import ModelCount
    from trimtab.graph.describe import Description


def command(
    model: Annotated[
        Path,
        typer.Argument(
            help="An .onnx, .keras, .h5, .tflite or .pt2 file, or the folder of a SavedModel."
        ),
    ],
    json: Json = False,
) -> None:
    """Show a model's inputs, outputs, layers, parameters and multiply-accumulates.

    Example: trimtab inspect watch.keras
    """
    from trimtab.graph.count import count_model
    from trimtab.graph.dependencies import analyse
    from trimtab.graph.describe import describe
    from trimtab.graph.load import format_of, load_model

    graph = load_model(model)
    count, kind = count_model(graph), describe(graph)
    kept = {} if kind.quantized else analyse(graph).kept_by_cause()
    if json:
        print_json(
            {
                "model": str(model),
                "format": format_of(model),
                **to_builtins(kind),
                "count": count,
                "kept_whole": kept,
            }
        )
        return
    typer.echo(f"{model}: {format_of(model)}, as ONNX opset {kind.opset}")
    _print_kind(kind, count)
    for side, ports in (("input ", kind.inputs), ("output", kind.outputs)):
        for port in ports:
            typer.echo(f"  {side} {port.name} {port.dtype or 'unknown'} {_shape(port.shape)}")
    _print_layers(count)
    for cause, names in kept.items():
        typer.echo(f"pruning keeps whole, because {_short(cause)}: {_listed(names)}")


def _print_kind(kind: Description, count: ModelCount) -> None:
    typer.echo(
        f"  {count.parameters:,} parameters in {count.weight_bytes:,} bytes, "
        f"{count.macs:,} multiply-accumulates"
    )
    operators = (f"{n} {name}" if n > 1 else name for name, n in kind.operators.items())
    typer.echo(f"  operators: {', '.join(operators)}")
    if kind.quantized:
        typer.echo("  quantized: weights or activations are integers; training needs float")
    if kind.half_precision:
        typer.echo("  half precision: some weights have 16 bits")
    if kind.control_flow:
        typer.echo(f"  control flow, left as it is: {', '.join(kind.control_flow)}")


def _print_layers(count: ModelCount) -> None:
    print_table(
        ("layer", "operator", "output", "parameters", "MACs"),
        (
            (
                _short(layer.name),
                layer.operator,
                _shape(layer.output_shape),
                f"{layer.parameters:,}",
                "unknown" if layer.macs is None else f"{layer.macs:,}",
            )
            for layer in count.layers
        ),
    )
    if count.assumed:
        lengths = ", ".join(f"{name} = {length}" for name, length in count.assumed.items())
        typer.echo(f"counted with {lengths}, which the model leaves free")
    if count.uncounted:
        typer.echo(
            f"not in the total, because shapes or rounds are unknown: {_listed(count.uncounted)}"
        )


def _shape(shape: tuple[int | None, ...] | None) -> str:
    """Returns a shape as people write it; a free dimension is `?`."""
    if shape is None:
        return "unknown"
    return "x".join("?" if dim is None else str(dim) for dim in shape) or "scalar"


_LISTED = 5


def _listed(names: Sequence[str]) -> str:
    """Returns the first few names; `--json` has them all."""
    more = [f"and {len(names) - _LISTED} more"] if len(names) > _LISTED else []
    return ", ".join([*map(_short, names[:_LISTED]), *more])


def _short(text: str) -> str:
    """Leaves out what the TFLite converter appends to a name: those of all that it fused."""
    return re.sub(r";[^ ,.:]*", "", text)
