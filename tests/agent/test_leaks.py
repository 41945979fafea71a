"""Hundreds of updates, children and connections leave nothing open in the agent's process."""

from __future__ import annotations

import gc
import os
import shutil
import threading
from pathlib import Path

import pytest

from support.manifests import small_package
from support.scratch import make_scratch
from support.updates import Device
from trimtab_agent.broker_url import BrokerUrl
from trimtab_agent.errors import BrokerError, GoldenError, HelperProcessError, NetworkError
from trimtab_agent.frames import QUESTION
from trimtab_agent.helper_process import Helper
from trimtab_agent.link import Link

ENDS_BADLY = (
    ["/bin/true"],
    ["/bin/cat"],  # says back what it is told
    ["/bin/sh", "-c", "echo no >&2; exit 3"],
    ["/bin/sh", "-c", "sleep 60"],
    ["/no/such/program"],
)


def held() -> tuple[int, int]:
    """Returns how many files and threads this process has."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()


@pytest.mark.slow
def test_updates_leave_nothing_open():
    directory, before = make_scratch(), None
    device = Device(directory)
    try:
        for counter in range(1, 201):
            if counter % 7 == 0:
                device.world.faults["check_golden"] = [GoldenError("NaN")]
            if counter % 11 == 0:
                device.world.faults["pull"] = [NetworkError("no broker")]
            device.update(counter, small_package(str(counter), model=os.urandom(5000)))
            if counter == 20:
                before = held()
        assert held() == before
        assert len(list((directory / "packages" / "versions").iterdir())) == 2
        assert not list((directory / "packages" / "staging").iterdir())
    finally:
        device.close()
        shutil.rmtree(directory)


def ask(command: list[str]) -> None:
    with Helper("any", what="a child", command=command, silence_s=0.05) as child:
        child.send(QUESTION, b"{}")
        raise child.refuse(child.receive())


def test_children_that_end_badly_leave_nothing_open():
    before = held()
    for command in ENDS_BADLY * 4:
        with pytest.raises(HelperProcessError):
            ask(command)
    assert held() == before
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text()
    assert not children.strip()


def test_connections_that_fail_leave_nothing_open():
    before = held()
    for _ in range(20):
        with Link(BrokerUrl("127.0.0.1", 9), "nobody") as link, pytest.raises(BrokerError):
            link.connect(0.2)
    assert held() == before
