"""Puts the agent together from its configuration."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from trimtab_agent.adapters import DeviceBench, PackageSource, SystemClock
from trimtab_agent.agent import Agent, progress_publisher, status_message
from trimtab_agent.allowance import Allowance
from trimtab_agent.commands import Commands
from trimtab_agent.config import Config
from trimtab_agent.contract import topics
from trimtab_agent.contract.messages import Progress, Report
from trimtab_agent.durable import sole_user
from trimtab_agent.errors import CallerError, ConfigError, TrimtabError
from trimtab_agent.fetcher import MqttDocuments
from trimtab_agent.hooks import DeviceHooks
from trimtab_agent.installer import assemble_in_child
from trimtab_agent.link import Link
from trimtab_agent.log_ring import LogRing
from trimtab_agent.nearby import NearbyDocuments, nearby_ways
from trimtab_agent.offline import update_from
from trimtab_agent.outbox import Outbox, fit_report
from trimtab_agent.output import AgentState, BenchResult, Output
from trimtab_agent.renewal import Renewal
from trimtab_agent.source_url import FileSource, open_source
from trimtab_agent.state import Memory, open_memory
from trimtab_agent.store import Store
from trimtab_agent.systemd import Service
from trimtab_agent.transfer import limited, mqtt_ways
from trimtab_agent.updater import Updater
from trimtab_agent.verifier import Verifier
from trimtab_agent.version import Version, read_version


def run_agent(config: Config, output: Output, *, once: bool) -> Report | None:
    """Runs the agent; see `Agent.run`, whose errors come through.

    Args:
        config: The device's settings.
        output: Where steps, reports and refusals are shown.
        once: End after one update.

    Returns:
        The update's report, with `once`.

    Raises:
        ConfigError: The initial root cannot be read.
        IdentityError: The device is not enrolled, or its certificate cannot be used.
        CallerError: Another agent uses the same state directory.
    """
    with sole_user(config.state_path):
        config.identity.settle()
        return _run_alone(config, output, once=once)


def run_from(config: Config, output: Output, url: str) -> Report | None:
    """Does one update from a folder or an HTTP server, without a broker; see `update_from`.

    Args:
        config: The device's settings.
        output: Where steps and the report are shown.
        url: The source.

    Returns:
        The update's report, or None if there was nothing to do.

    Raises:
        ConfigError: The initial root cannot be read.
        CallerError: Another agent uses the same state directory, or the source is none.
    """
    source = _open_source(config, url)
    with sole_user(config.state_path), open_memory(_database(config)) as memory:
        config.identity.settle()
        verifier = Verifier(config.state_path / "trust", _read_root(config.root_path))
        updater = Updater(
            memory=memory,
            store=Store(_packages(config), assemble=assemble_in_child),
            source=PackageSource(
                source, lambda _: {str(source): source}, verifier, device=config.device
            ),
            bench=DeviceBench(config.profile, config.measure),
            hooks=DeviceHooks(config.device, config.hooks, config.health),
            clock=SystemClock(),
            notify=output.progress,
        )
        try:
            report = update_from(source, config.device, updater, memory)
        finally:
            updater.stop()
    if report:
        output.report(report)
    return report


def _open_source(config: Config, url: str) -> FileSource:
    return open_source(url, timeout_s=config.timeout_s, ca_file=config.transfer.ca_file)


def _run_alone(config: Config, output: Output, *, once: bool) -> Report | None:
    """Runs the agent as the only one on its state directory."""
    broker, identity = config.broker_url, config.identity
    root = _read_root(config.root_path)
    will = topics.status(config.device), status_message(config.device, None, None)
    client_id = identity.client_id(config.device)
    with (
        Link(broker, client_id, will=will, tls=identity.tls_files) as link,
        Renewal(link, identity, config.device) if broker.tls else contextlib.nullcontext(),
        open_memory(_database(config)) as memory,
        Service() as service,
    ):
        agent = _assemble(config, output, link=link, memory=memory, root=root, service=service)
        try:
            return agent.run(once=once)
        finally:
            agent.stop()


def _assemble(
    config: Config,
    output: Output,
    *,
    link: Link,
    memory: Memory,
    root: bytes,
    service: Service,
) -> Agent:
    """Connects the parts with each other."""
    store = Store(_packages(config), assemble=assemble_in_child)
    nearby = [_open_source(config, url) for url in config.transfer.sources]
    documents = NearbyDocuments(nearby, MqttDocuments(link, timeout_s=config.timeout_s))
    ways = limited(
        mqtt_ways(link, device=config.device, timeout_s=config.timeout_s),
        config.transfer,
        tell=lambda detail: updater.note(detail),  # noqa: PLW0108 - it is made further down
    )
    verifier = Verifier(config.state_path / "trust", root)
    bench = DeviceBench(config.profile, config.measure)
    source = PackageSource(documents, nearby_ways(nearby, ways), verifier, device=config.device)
    clock = SystemClock()
    ring = LogRing()
    logging.getLogger("trimtab_agent").addHandler(ring)

    def show_step(progress: Progress) -> None:
        output.progress(progress)
        ring.step(progress)

    updater = Updater(
        memory=memory,
        store=store,
        source=source,
        bench=bench,
        hooks=DeviceHooks(config.device, config.hooks, config.health),
        clock=clock,
        notify=progress_publisher(link, config.device, show_step),
    )
    commands = Commands(
        verify=source.verify_command,
        told=memory,
        updater=updater,
        bench=bench,
        active=lambda: store.current,
        logs=ring.last,
        clock=clock.now,
        allowance=Allowance(clock.monotonic_s),
    )

    def active() -> str | None:
        current = store.current
        return current.manifest.target_name if current else None

    def send(report: bytes) -> None:
        link.publish(topics.report(config.device), fit_report(report, link.max_payload_bytes))

    def show(what: Report | TrimtabError) -> None:
        if isinstance(what, Report):
            output.report(what)
        else:
            output.error(what)

    return Agent(
        device=config.device,
        link=link,
        updater=updater,
        commands=commands,
        outbox=Outbox(memory, send),
        inventory=bench.inventory(),
        active=active,
        service=service,
        show=show,
    )


def read_state(config: Config) -> AgentState:
    """Returns what is active and what is under way; the agent may be running.

    Raises:
        DamagedError: A manifest on the disk, or the database, is damaged.
        StorageError: The disk refuses.
    """
    current = read_version(_packages(config) / "current")
    previous = _version_before(config)
    pending, counter, waiting, paused = None, None, 0, False
    if _database(config).exists():
        with Memory(_database(config)) as memory:
            pending, counter, waiting = memory.pending, memory.counter, len(memory.outbox)
            paused = memory.paused
    there = previous if previous and current and previous.sha256 != current.sha256 else None
    return AgentState(
        device=config.device,
        active=current.manifest.target_name if current else None,
        manifest_sha256=current.sha256 if current else None,
        previous=there.manifest.target_name if there else None,
        counter=counter,
        updating=pending.assignment.target if pending else None,
        step=pending.step if pending else None,
        paused=paused,
        outbox=waiting,
    )


def bench_active(config: Config, *, operators: bool, against_previous: bool = False) -> BenchResult:
    """Measures the active version once more; the agent may be running, but had better not.

    Args:
        config: The device's settings.
        operators: Whether to time every operator too.
        against_previous: Whether the previous version takes turns with it.

    Raises:
        CallerError: Nothing is active, or there is no previous version to compare with.
        FormatError: A manifest on the disk is damaged.
        DeviceError: The disk refuses, the runtime is gone, or the process that ran the model died.
    """
    version = read_version(_packages(config) / "current")
    if version is None:
        raise CallerError(f"nothing is active on {config.device}: assign a package to it first")
    bench = DeviceBench(config.profile, config.measure)
    comparison = None
    if against_previous:
        previous = _version_before(config)
        if previous is None:
            raise CallerError(
                f"{config.device} has no version before {version.manifest.target_name} to "
                "compare it with"
            )
        measurement, comparison = bench.compare(version, previous)
    else:
        measurement = bench.measure(version)
    return BenchResult(
        target=version.manifest.target_name,
        measurement=measurement,
        comparison=comparison,
        operators=bench.time_operators(version) if operators else None,
        operator_runs=bench.operator_runs if operators else None,
    )


def _version_before(config: Config) -> Version | None:
    """Returns what a rollback would make active; during a trial, what was committed."""
    on_trial = read_version(_packages(config) / "committed")
    return on_trial or read_version(_packages(config) / "previous")


def _packages(config: Config) -> Path:
    return config.state_path / "packages"


def _database(config: Config) -> Path:
    return config.state_path / "state.sqlite"


def _read_root(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot read the initial root {path}: {error.strerror} - at `$.root`"
        ) from error
