"""`trimtab inspect MODEL`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimtab.cli.options import Json
from trimtab.cli.output import print_json, print_table


def command(
    model: Annotated[Path, typer.Argument(help="An .onnx or .keras file.")], json: Json = False
) -> None:
    """Show a model's inputs, outputs, layers, parameters and multiply-accumulates.

    Example: trimtab inspect watch.keras
    """
    from trimtab.graph.count import count_model
    from trimtab.graph.load import load_model
    from trimtab.workflow.source import input_specs

    graph = load_model(model)
    count = count_model(graph)
    operators = sorted({node.op_type for node in graph.graph})
    outputs = [(value.name, str(value.shape)) for value in graph.graph.outputs]
    if json:
        print_json(
            {
                "model": str(model),
                "inputs": input_specs(graph),
                "outputs": [{"name": name, "shape": shape} for name, shape in outputs],
                "operators": operators,
                "count": count,
            }
        )
        return
    typer.echo(f"{model}: {count.parameters:,} parameters, {count.macs:,} multiply-accumulates,")
    typer.echo(f"  {count.weight_bytes:,} bytes of weights, operators {', '.join(operators)}")
    for spec in input_specs(graph):
        typer.echo(f"  input  {spec.name} {spec.dtype} {_shape(spec.shape)}")
    for name, shape in outputs:
        typer.echo(f"  output {name} {shape}")
    print_table(
        ("layer", "operator", "output", "parameters", "MACs"),
        (
            (
                layer.name,
                layer.operator,
                _shape(layer.output_shape),
                f"{layer.parameters:,}",
                "unknown" if layer.macs is None else f"{layer.macs:,}",
            )
            for layer in count.layers
        ),
    )


def _shape(shape: tuple[int | None, ...] | None) -> str:
    """Returns a shape as people write it; a free dimension is `?`."""
    if shape is None:
        return "unknown"
    return "x".join("?" if dim is None else str(dim) for dim in shape)
