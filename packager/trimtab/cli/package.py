"""`trimtab package FOLDER`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimtab.cli.keys import Keys, PassphraseFile, key_sources
from trimtab.cli.options import DEFAULT_WORKSPACE, Json, Workspace
from trimtab.cli.output import print_json


def command(
    folder: Annotated[
        Path, typer.Argument(help="A target's folder that `trimtab compress` has written.")
    ],
    name: Annotated[str, typer.Option(help="The package's name, the same over its versions.")],
    version: Annotated[str, typer.Option(help="Its version; a released one is never changed.")],
    processing: Annotated[
        Path | None,
        typer.Option(
            help="A .yaml file that says what the application must do to an input before the "
            "model and to an output after it (docs/formats/package.md). What `trimtab compress` "
            "knows from the data is in the package anyway."
        ),
    ] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    keys: Keys = None,
    passphrase_file: PassphraseFile = None,
    json: Json = False,
) -> None:
    """Pack a compressed model into one file and sign it.

    Example: trimtab package small/tflite --name watch --version 1
    """
    from trimtab.workflow.bases import bases_for
    from trimtab.workflow.compressed import read_compressed
    from trimtab.workflow.release import release
    from trimtab.workflow.workspace import Workspace as Opened

    opened = Opened.open(workspace, sources=key_sources(keys, passphrase_file))
    created = read_compressed(folder).created
    bases = bases_for(opened, name=name, version=version, created=created)
    released = release(
        folder, opened, name=name, version=version, bases=bases, processing=processing
    )
    manifest = released.manifest
    if json:
        print_json({"package": str(released.path), "manifest": manifest})
        return
    sizes = manifest.sizes
    typer.echo(f"{released.path}: signed as {manifest.target_name}")
    typer.echo(
        f"  {sizes.wire_bytes:,} bytes on the wire, {sizes.file_bytes:,} in the model's files, "
        f"{sizes.weight_bytes:,} of weights in memory"
    )
    deltas = [delta for file in manifest.files for delta in file.deltas]
    if deltas:
        smallest = min(sum(chunk.wire_bytes for chunk in delta.chunks) for delta in deltas)
        count = "1 delta from an earlier version" if len(deltas) == 1 else f"{len(deltas)} deltas"
        typer.echo(f"  {count}, {smallest:,} bytes and more")
