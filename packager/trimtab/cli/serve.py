"""`trimtab serve`."""

from __future__ import annotations

import logging
import signal
import threading
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.cli.options import DEFAULT_WORKSPACE, Json, Workspace
from trimtab.cli.output import print_json

if TYPE_CHECKING:
    from trimtab.workflow.serve import Serving


def command(
    workspace: Workspace = DEFAULT_WORKSPACE,
    host: Annotated[
        str, typer.Option(help="Address to listen on; with any but 127.0.0.1, TLS is on.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(
            help="Port to listen on, by default 1883 or with TLS 8883; 0 takes a free one. "
            "Devices enrol at the next one.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Host name or address by which devices reach this machine, once for each; "
            "the first goes into tokens.",
            show_default=False,
        ),
    ] = None,
    tls: Annotated[bool, typer.Option("--tls", help="TLS on 127.0.0.1 too.")] = False,
    broker: Annotated[
        str | None,
        typer.Option(
            "--broker",
            "-b",
            help="Start no broker: serve at this one, which somebody else runs.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Run a broker until Ctrl-C, and give devices certificates and what they ask for.

    It answers devices that ask for chunks, takes their reports, keeps the TUF timestamp fresh, and
    restores what the broker lost.

    On 127.0.0.1 it lets every client in: Mosquitto if it is installed, else iotcore. On another
    address, or with --tls, it is Mosquitto, and every client needs a certificate (trimtab enroll).

    Example: trimtab serve --host 0.0.0.0 --name plant.local
    """
    from trimtab.workflow.serve import ServeOptions, serve, serve_elsewhere
    from trimtab.workflow.workspace import Workspace as Opened
    from trimtab_agent.log_limit import LimitedHandler

    logging.basicConfig(
        format="trimtab: %(message)s", level=logging.WARNING, handlers=[LimitedHandler()]
    )
    opened = Opened.open(workspace)
    stop, reload = threading.Event(), threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    if broker is not None:
        serve_elsewhere(opened, broker, stop=stop, on_ready=partial(_print_elsewhere, broker, json))
        return
    signal.signal(signal.SIGHUP, lambda *_: reload.set())
    options = ServeOptions(host=host, port=port, names=tuple(name or ()), tls=tls)
    serve(
        opened,
        options,
        stop=stop,
        reload=reload,
        on_ready=_print_json if json else _print,
    )


def _print_elsewhere(broker: str, json: bool) -> None:
    if json:
        print_json({"broker": broker, "kind": None, "devices": broker, "enrolment": None})
    else:
        typer.echo(f"serving devices at {broker}; Ctrl-C stops it")


def _print_json(serving: Serving) -> None:
    address = serving.address
    print_json(
        {
            "broker": serving.broker,
            "kind": serving.kind,
            "devices": address.broker if address else serving.broker,
            "enrolment": address.enrolment if address else None,
        }
    )


def _print(serving: Serving) -> None:
    if serving.address is None:
        typer.echo(
            f"{serving.kind} listens on {serving.broker} (this machine only); Ctrl-C stops it"
        )
        return
    typer.echo(f"{serving.kind} listens on {serving.address.broker}, TLS 1.3; Ctrl-C stops it")
    typer.echo(f"devices enrol at {serving.address.enrolment}; make a token: trimtab enroll DEVICE")
