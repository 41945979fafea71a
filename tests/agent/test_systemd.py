from __future__ import annotations

import os
import socket
import time

import pytest

from trimtab_agent.systemd import Service


@pytest.fixture
def manager(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.settimeout(5)
        yield end


def environment(manager, **extra):
    return {"NOTIFY_SOCKET": manager.getsockname(), **extra}


def test_a_service_says_ready_status_and_stopping(manager):
    with Service(environment(manager)) as service:
        service.ready()
        service.status("fetching watch-2.json\nnow")
    assert [manager.recv(100) for _ in range(3)] == [
        b"READY=1",
        b"STATUS=fetching watch-2.json now",
        b"STOPPING=1",
    ]


def test_an_abstract_socket_is_reached():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(f"\0trimtab-test-{os.getpid()}")
        end.settimeout(5)
        Service({"NOTIFY_SOCKET": f"@trimtab-test-{os.getpid()}"}).ready()
        assert end.recv(100) == b"READY=1"


def test_without_systemd_nothing_is_sent_and_nothing_fails():
    with Service({}) as service:
        service.ready()
        service.alive(1)


def test_a_manager_that_is_gone_does_no_harm(tmp_path):
    Service({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()


def test_the_watchdog_is_fed_while_the_main_thread_is_alive(manager):
    usec = {"WATCHDOG_USEC": "20000", "WATCHDOG_PID": str(os.getpid())}
    with Service(environment(manager, **usec)) as service:
        service.alive(60)
        assert manager.recv(100) == b"WATCHDOG=1"
        assert manager.recv(100) == b"WATCHDOG=1"


def test_a_main_thread_that_hangs_is_not_covered_for(manager):
    now = [0.0]
    service = Service(environment(manager), clock=lambda: now[0])
    service.alive(10)
    now[0] = 9
    service.pass_on()
    now[0] = 11
    service.pass_on()
    service.status("end")
    assert [manager.recv(100) for _ in range(2)] == [b"WATCHDOG=1", b"STATUS=end"]


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "10000", "WATCHDOG_PID": "1"},
    ],
    ids=["absent", "zero", "garbage", "another process"],
)
def test_a_watchdog_that_is_not_ours_is_not_fed(manager, extra):
    with Service(environment(manager, **extra)) as service:
        service.alive(60)
        time.sleep(0.05)
        service.status("end")
        assert manager.recv(100) == b"STATUS=end"
