"""The command `trimtab-agent`: reads arguments, prints, and decides nothing."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from trimtab_agent import __version__
from trimtab_agent.errors import CallerError, TrimtabError, kind_of
from trimtab_agent.lean import import_lean

# Everything that loads paho-mqtt, tuf or numpy is imported where it is used: --help is instant.
if TYPE_CHECKING:
    from trimtab_agent.output import Output


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: In place of those of the process.

    Returns:
        The exit code: 0, or that of the error (`trimtab_agent.errors`).
    """
    options = _parser().parse_args(arguments)
    from trimtab_agent.output import JsonOutput, TextOutput

    output: Output = JsonOutput() if options.json else TextOutput()
    # SIGINT too: a shell that starts a program in the background has it ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        code: int = options.command(options, output)
    except TrimtabError as error:
        output.error(error)
        return error.exit_code
    except KeyboardInterrupt:
        return 0
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trimtab-agent",
        description="Pulls signed model packages over MQTT, proves them on this device, and "
        "reports.",
        epilog="Example: trimtab-agent run --config /etc/trimtab/agent.toml",
    )
    parser.add_argument("--version", action="version", version=f"trimtab-agent {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = _command(
        commands,
        "run",
        "connect, and do what is assigned to this device",
        "run --once --from file:/media/usb/trimtab --config agent.toml",
    )
    run.add_argument("--once", action="store_true", help="end after one update")
    run.add_argument(
        "--from",
        dest="source",
        metavar="URL",
        help="with --once: update from a folder or HTTP server (file:/PATH, http://HOST/PATH), "
        "without a broker",
    )
    run.set_defaults(command=_run)
    status = _command(
        commands,
        "status",
        "what is active here, and what is under way",
        "status --config agent.toml --json",
    )
    status.set_defaults(command=_status)
    bench = _command(
        commands,
        "bench",
        "measure the active model again",
        "bench --config agent.toml --against previous",
    )
    bench.add_argument("--operators", action="store_true", help="time every operator too")
    bench.add_argument(
        "--against",
        choices=["previous"],
        help="take turns with the version before it, and print the ratios",
    )
    bench.set_defaults(command=_bench)
    enroll = _command(
        commands,
        "enroll",
        "get this device's certificate with a token",
        "enroll --token-file kitchen-pi-01.token --config agent.toml",
    )
    token = enroll.add_mutually_exclusive_group(required=True)
    token.add_argument("--token", metavar="TOKEN", help="from `trimtab enroll DEVICE` on the host")
    token.add_argument("--token-file", type=Path, metavar="FILE", help="a file that holds it")
    enroll.set_defaults(command=_enroll)
    for command in (run, status, bench, enroll):
        command.add_argument(
            "--config", type=Path, required=True, metavar="FILE", help="configuration (TOML)"
        )
        command.add_argument("--json", action="store_true", help="print JSON, one object a line")
    _add_tuf(commands)
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    what: str,
    example: str,
) -> argparse.ArgumentParser:
    """Adds a command whose --help says what it does and shows an example."""
    return commands.add_parser(
        name,
        help=what,
        description=f"{what[0].upper()}{what[1:]}.",
        epilog=f"Example: trimtab-agent {example}",
    )


def _add_tuf(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the commands of the public TUF conformance suite (its CLIENT-CLI.md)."""
    tuf = commands.add_parser(
        "tuf", help="fetch from a TUF repository over HTTP, as the TUF conformance suite does"
    )
    tuf.add_argument("--metadata-dir", type=Path, required=True, metavar="DIR")
    tuf.add_argument("--metadata-url", metavar="URL")
    tuf.add_argument("--target-name", action="append", default=[], metavar="NAME")
    tuf.add_argument("--target-base-url", metavar="URL")
    tuf.add_argument("--target-dir", type=Path, metavar="DIR")
    tuf.set_defaults(command=_tuf, json=False)
    steps = tuf.add_subparsers(required=True, metavar="STEP", dest="step")
    init = steps.add_parser("init", help="trust this root from now on")
    init.add_argument("trusted_root", type=Path, metavar="TRUSTED_ROOT")
    steps.add_parser("refresh", help="bring the metadata up to date")
    steps.add_parser("download", help="bring it up to date, and fetch targets")


def _run(options: argparse.Namespace, output: Output) -> int:
    from trimtab_agent.log_limit import LimitedHandler

    logging.basicConfig(
        format="trimtab-agent: %(message)s", level=logging.WARNING, handlers=[LimitedHandler()]
    )
    import_lean("paho.mqtt.client")
    from trimtab_agent.config import load_config
    from trimtab_agent.service import run_agent, run_from

    if options.source and not options.once:
        raise CallerError("--from does one update: add --once")
    config = load_config(options.config)
    if options.source:
        report = run_from(config, output, options.source)
    else:
        report = run_agent(config, output, once=options.once)
    return 0 if report is None or report.failure is None else exit_code(report.failure.reason)


def _status(options: argparse.Namespace, output: Output) -> int:
    from trimtab_agent.config import load_config
    from trimtab_agent.service import read_state

    output.state(read_state(load_config(options.config)))
    return 0


def _bench(options: argparse.Namespace, output: Output) -> int:
    from trimtab_agent.config import load_config
    from trimtab_agent.service import bench_active

    result = bench_active(
        load_config(options.config),
        operators=options.operators,
        against_previous=options.against == "previous",
    )
    output.bench(result)
    return 0


def _enroll(options: argparse.Namespace, output: Output) -> int:
    from trimtab_agent.config import load_config
    from trimtab_agent.enrol import enrol, read_token_file
    from trimtab_agent.output import EnrolResult

    config = load_config(options.config)
    text = options.token or read_token_file(options.token_file)
    token, lifetime = enrol(config.state_path, config.device, text)
    until = lifetime.ends.isoformat(timespec="seconds")
    output.enrolled(EnrolResult(device=config.device, broker=token.broker, until=until))
    return 0


def _tuf(options: argparse.Namespace, output: Output) -> int:
    """Does one step; the suite wants the exit code 1 for every failure."""
    from trimtab_agent import tuf_client

    try:
        if options.step == "init":
            tuf_client.init(options.metadata_dir, options.trusted_root)
        elif options.step == "refresh":
            tuf_client.refresh(options.metadata_dir, _given(options, "metadata_url"))
        else:
            tuf_client.download(
                options.metadata_dir,
                _given(options, "metadata_url"),
                names=_given(options, "target_name"),
                target_url=_given(options, "target_base_url"),
                target_dir=_given(options, "target_dir"),
            )
    except TrimtabError as error:
        output.error(error)
        return 1
    return 0


def _given(options: argparse.Namespace, name: str) -> Any:
    """Returns an option that this step needs.

    Raises:
        CallerError: It was not given.
    """
    value = getattr(options, name)
    if not value:
        raise CallerError(f"`{options.step}` needs --{name.replace('_', '-')}")
    return value


def exit_code(reason: str) -> int:
    """Returns the exit code of the error whose stable word is `reason`."""
    return kind_of(reason).exit_code


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    """Ends the program as Ctrl-C does, with every `finally` on the way."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
