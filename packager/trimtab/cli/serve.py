"""`trimtab serve`."""

from __future__ import annotations

import signal
import threading
from typing import Annotated

import typer

from trimtab.cli.options import DEFAULT_WORKSPACE, Json, Workspace
from trimtab.cli.output import print_json


def command(
    workspace: Workspace = DEFAULT_WORKSPACE,
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 1883,
    json: Json = False,
) -> None:
    """Run a broker on 127.0.0.1 until Ctrl-C: Mosquitto if it is installed, else iotcore.

    Example: trimtab serve --port 1883
    """
    from trimtab.fleet.broker import start_broker
    from trimtab.workflow.workspace import Workspace as Opened

    opened = Opened.open(workspace)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with start_broker(opened.broker_path, port=port) as broker:
        if json:
            print_json({"broker": broker.url, "kind": broker.kind})
        else:
            typer.echo(
                f"{broker.kind} listens on {broker.url} (this machine only); Ctrl-C stops it"
            )
        stop.wait()
