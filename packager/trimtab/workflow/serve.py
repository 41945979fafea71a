"""`trimtab serve`: the broker, and what the host does for devices for as long as it runs."""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial

from trimtab.fleet.authority import Authority
from trimtab.fleet.broker import Broker, free_port, start_broker
from trimtab.fleet.broker_address import BrokerAddress
from trimtab.fleet.brokers import BrokerKind
from trimtab.fleet.enrolment import serve_enrolment
from trimtab.fleet.gatekeeper import Gatekeeper
from trimtab.fleet.supervised import LOOK_EVERY_S, Guard, SupervisedBroker
from trimtab.workflow.identity import open_enrolment, open_link, open_registry
from trimtab.workflow.services import host_services
from trimtab.workflow.workspace import Workspace
from trimtab_agent.broker_url import PLAIN_PORT, TLS_PORT, BrokerUrl, parse_broker_url
from trimtab_agent.durable import sole_user
from trimtab_agent.errors import CallerError
from trimtab_agent.tls import TlsFiles

CONNECT_TIMEOUT_S = 10.0
LOOPBACK_NAMES = ("127.0.0.1", "localhost")
_ANY = ("0.0.0.0", "::")  # noqa: S104 -- asked for by name only, and with TLS


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """How to serve.

    Attributes:
        host: The address to listen on.
        port: None takes MQTT's usual one, 0 a free one.
        names: Host names and addresses by which devices know this machine, besides `host`.
        tls: Whether to encrypt on a loopback address too; on any other it always is.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    names: tuple[str, ...] = ()
    tls: bool = False

    @property
    def encrypted(self) -> bool:
        """Whether the connection uses TLS."""
        return self.tls or not _is_loopback(self.host)


@dataclass(frozen=True, kw_only=True)
class Serving:
    """What runs.

    Attributes:
        broker: Where this machine reaches the broker.
        kind: What it is.
        address: Where devices reach it; None without TLS.
    """

    broker: str
    kind: BrokerKind
    address: BrokerAddress | None


def serve(
    workspace: Workspace,
    options: ServeOptions,
    *,
    stop: threading.Event,
    reload: threading.Event,
    on_ready: Callable[[Serving], None],
) -> None:
    """Runs the broker and the host's services until `stop` is set.

    Args:
        workspace: Whose.
        options: How.
        stop: Ends it.
        reload: Has the broker read its files again; cleared when it was told.
        on_ready: Called once everything runs.

    Raises:
        CallerError: The options contradict each other, or the workspace is served already.
        BrokerError: The broker does not start, or keeps dying.
        IdentityError: The host's certificate cannot be used.
        RepositoryError: The certificate authority is damaged.
        StorageError: The disk refuses.
    """
    with (
        sole_user(workspace.broker_path, user="trimtab serve"),
        _running(workspace, options) as (supervised, serving),
        _services(workspace, parse_broker_url(serving.broker)),
    ):
        on_ready(serving)
        while not stop.wait(LOOK_EVERY_S):
            supervised.tend()
            if reload.is_set():
                reload.clear()
                supervised.reload()


def serve_elsewhere(
    workspace: Workspace, broker: str, *, stop: threading.Event, on_ready: Callable[[], None]
) -> None:
    """Runs the host's services at a broker that somebody else runs, until `stop` is set.

    Args:
        workspace: Whose.
        broker: Where it listens.
        stop: Ends it.
        on_ready: Called once everything runs.

    Raises:
        CallerError: The address is malformed.
        BrokerError: The broker is not there, or refuses.
        IdentityError: The host's certificate cannot be used.
        RepositoryError: The repository is broken.
        StorageError: The disk refuses.
    """
    with _services(workspace, parse_broker_url(broker)):
        on_ready()
        stop.wait()


@contextmanager
def _running(
    workspace: Workspace, options: ServeOptions
) -> Iterator[tuple[SupervisedBroker, Serving]]:
    """Runs the broker."""
    if options.encrypted:
        names = _names(options)
        port = free_port(options.host, TLS_PORT if options.port is None else options.port)
        # Beside the other, so that one rule of a firewall lets both in.
        enrolment_port = free_port(options.host, port + 1 if options.port != 0 else 0)
        address = BrokerAddress(
            broker=str(BrokerUrl(names[0], port, tls=True)),
            enrolment=str(BrokerUrl(names[0], enrolment_port, tls=True)),
        )
        authority = Authority.open(workspace.identity_path)
        registry = open_registry(workspace)
        guard = Guard(Gatekeeper(authority, registry, names, enrolment_port), registry)
        client = authority.host_files(datetime.now(timezone.utc))
        start = partial(_start, workspace, options.host, port, guard, client)
        address.write(workspace.identity_path)
    else:
        port = free_port(options.host, PLAIN_PORT if options.port is None else options.port)
        address, guard = None, None
        BrokerAddress.forget(workspace.identity_path)
        start = partial(start_broker, workspace.broker_path, host=options.host, port=port)
    with SupervisedBroker(start, guard) as supervised:
        broker = supervised.broker
        yield supervised, Serving(broker=broker.url, kind=broker.kind, address=address)


def _start(workspace: Workspace, host: str, port: int, guard: Guard, client: TlsFiles) -> Broker:
    return start_broker(workspace.broker_path, host=host, port=port, tls=guard.tls, client=client)


@contextmanager
def _services(workspace: Workspace, broker: BrokerUrl) -> Iterator[None]:
    """Runs what the host does for devices, over one connection of its own."""
    with open_link(workspace, broker) as link:
        if broker.tls:
            serve_enrolment(link, open_enrolment(workspace))
        link.connect(CONNECT_TIMEOUT_S)
        with host_services(link, workspace):
            yield


def _names(options: ServeOptions) -> tuple[str, ...]:
    """Returns every name of the broker's certificate; the first is the one in tokens.

    Raises:
        CallerError: There is no name by which a device could reach it.
    """
    own = () if options.host in _ANY else (options.host,)
    if not options.names and not own:
        raise CallerError(
            f"listening on {options.host} says nothing of how devices reach this machine: add its "
            f"host name or address, such as --name plant.local --name 192.168.1.5"
        )
    return tuple(dict.fromkeys((*options.names, *own, *LOOPBACK_NAMES, "::1")))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
