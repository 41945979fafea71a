"""The brokers that tests run against, and links to them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NoReturn

import pytest

from trimtab.fleet.broker import Broker, start_broker
from trimtab.fleet.brokers import PROGRAMS, BrokerKind
from trimtab_agent.link import Link, parse_broker_url

KINDS: tuple[BrokerKind, ...] = ("mosquitto", "iotcore")


def missing(what: str) -> NoReturn:
    """Skips a test for want of a program; fails it where nothing may be skipped, as in CI."""
    if os.environ.get("TRIMTAB_NO_SKIP"):
        pytest.fail(f"{what}, and TRIMTAB_NO_SKIP is set")
    pytest.skip(what)


def broker_of(kind: BrokerKind, data_dir: Path) -> Broker:
    """Starts a broker of `kind`; skips the test where that program is not installed."""
    if not any(program.kind == kind and program.is_installed() for program in PROGRAMS):
        missing(f"{kind} is not installed on this machine")
    return start_broker(data_dir, kind=kind)


@contextlib.contextmanager
def connected(broker: Broker, client_id: str):
    """Yields a link to `broker`."""
    with Link(parse_broker_url(broker.url), client_id) as link:
        link.connect(5)
        yield link
