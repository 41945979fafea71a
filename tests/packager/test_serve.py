"""`trimtab serve` and `trimtab enroll` as commands: started, killed, stopped, refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from support.agent_brokers import MOSQUITTO
from support.brokers import missing
from trimtab.cli.app import app
from trimtab.fleet import brokers
from trimtab.fleet.broker import accepts_mqtt5, start_broker
from trimtab.fleet.brokers import BrokerTls, IotCore
from trimtab.fleet.gatekeeper import Needed
from trimtab.fleet.supervised import MOST_DEATHS, SupervisedBroker
from trimtab.workflow.deliver import open_delivery
from trimtab.workflow.identity import host_files, open_link
from trimtab.workflow.serve import ServeOptions, _names
from trimtab.workflow.workspace import Workspace
from trimtab_agent.broker_url import parse_broker_url
from trimtab_agent.contract import topics
from trimtab_agent.contract.enrolment import decode_token
from trimtab_agent.enrol import enrol
from trimtab_agent.errors import BrokerError, CallerError, StorageError
from trimtab_agent.identity import Identity
from trimtab_agent.link import Link
from trimtab_agent.tls import TlsContext, TlsFiles


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return Workspace.create(tmp_path_factory.mktemp("site") / "workspace")


class Served:
    """`trimtab serve` in a process of its own."""

    def __init__(self, workspace: Workspace, *options: str) -> None:
        if MOSQUITTO is None:
            missing("mosquitto is not installed on this machine")
        command = [sys.executable, "-m", "trimtab", "serve", "-w", str(workspace.path), "--json"]
        self.process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
        text = ""
        while not text.endswith("}\n"):
            line = self.process.stdout.readline()
            assert line, f"trimtab serve ended with {self.process.wait()}"
            text += line
        self.said = json.loads(text)

    def broker_pid(self) -> int:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return int(children.read_text().split()[0])

    def stop(self, number=signal.SIGINT) -> int:
        self.process.send_signal(number)
        code = self.process.wait(20)
        self.process.stdout.close()
        return code


def enroll(workspace, *arguments):
    done = CliRunner().invoke(app, ["enroll", *arguments, "-w", str(workspace.path), "--json"])
    return done, json.loads(done.stdout) if done.exit_code == 0 else None


def reaches(workspace, url) -> bool:
    address = parse_broker_url(url)
    return accepts_mqtt5(address.host, address.port, TlsContext(host_files(workspace)).context)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_broker_serves_enrols_revokes_and_survives(workspace, tmp_path):
    served = Served(workspace, "--tls", "--port", "0")
    try:
        url = served.said["broker"]
        assert served.said["kind"] == "mosquitto"
        _, made = enroll(workspace, "dev-a", "--valid", "10m")
        assert made["usable"]
        token = decode_token(made["token"])
        assert (token.broker, token.enrolment) == (served.said["devices"], served.said["enrolment"])
        enrol(tmp_path, "dev-a", made["token"])
        files = Identity(tmp_path).tls_files
        with Link(parse_broker_url(url), "device", tls=files) as link:
            link.connect(5)
            with open_delivery(workspace, url):
                link.publish(topics.status("dev-a"), b"", wait_s=5)
            os.kill(served.broker_pid(), signal.SIGKILL)
            wait_for(lambda: reaches(workspace, url))
            wait_for(lambda: link.connected, timeout_s=30)
            served.process.send_signal(signal.SIGHUP)
            time.sleep(1)
            assert link.connected
            done, revoked = enroll(workspace, "--revoke", "dev-a")
            assert revoked == {"device": "dev-a", "revoked": 2, "in_force": True}
        with Link(parse_broker_url(url), "device", tls=files) as link:  # noqa: SIM117
            with pytest.raises(BrokerError, match="was revoked"):
                link.connect(5)
        _, listed = enroll(workspace)
        assert [(row["device"], row["state"]) for row in listed] == [("dev-a", "revoked")]
        done = CliRunner().invoke(app, ["serve", "-w", str(workspace.path)])
        assert isinstance(done.exception, CallerError)
        assert "in use by another trimtab serve" in str(done.exception)
        broker = served.broker_pid()
    finally:
        code = served.stop()
    assert code == 0
    assert not Path(f"/proc/{broker}").exists()
    served = Served(workspace, "--tls", "--port", "0")
    broker = served.broker_pid()
    served.stop(signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{broker}").exists())
    done, revoked = enroll(workspace, "--revoke", "dev-a")
    assert "no certificate and no token" in str(done.exception)
    _, made = enroll(workspace, "dev-a")
    assert made["usable"] is False


def wait_for(condition, timeout_s=15.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_token_needs_a_broker_with_tls(tmp_path):
    workspace = Workspace.create(tmp_path / "workspace")
    done, _ = enroll(workspace, "dev-a")
    assert "start one first with trimtab serve --host" in str(done.exception)
    done, _ = enroll(workspace, "--revoke")
    assert "say which device" in str(done.exception)
    assert enroll(workspace)[1] == []


@pytest.mark.parametrize("valid", ["", "24", "h", "1w", "-1h", "1.5h", "99999h"])
def test_a_duration_that_cannot_be_read_is_said(workspace, valid):
    done, _ = enroll(workspace, "dev-a", f"--valid={valid}")
    assert "take for example 30m, 24h or 7d" in str(done.exception)


def test_names_go_into_the_certificate_and_the_first_into_tokens():
    local = ("127.0.0.1", "localhost", "::1")
    assert _names(ServeOptions()) == local
    assert _names(ServeOptions(host="192.168.1.5")) == ("192.168.1.5", *local)
    options = ServeOptions(host="0.0.0.0", names=("plant.local", "10.0.0.1"))
    assert _names(options) == ("plant.local", "10.0.0.1", *local)
    with pytest.raises(CallerError, match="add its host name or address"):
        _names(ServeOptions(host="::"))


def test_tls_is_on_everywhere_but_on_loopback():
    assert not ServeOptions().encrypted
    assert not ServeOptions(host="localhost").encrypted
    assert ServeOptions(tls=True).encrypted
    for host in ("0.0.0.0", "192.168.1.5", "plant.local", "::"):
        assert ServeOptions(host=host, names=("n",)).encrypted


def test_iotcore_is_refused_with_tls_and_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(brokers, "PROGRAMS", (IotCore(),))
    monkeypatch.setattr("trimtab.fleet.broker.PROGRAMS", (IotCore(),))
    files = TlsFiles(tmp_path / "a", tmp_path / "b", tmp_path / "c")
    tls = BrokerTls(
        server=files,
        revoked=tmp_path,
        access=tmp_path,
        token_access=tmp_path,
        passwords=tmp_path,
        enrolment_port=1,
    )
    with pytest.raises(CallerError, match="checks no client certificates, has no access rules"):
        start_broker(tmp_path, host="0.0.0.0", tls=tls)


def test_an_open_link_to_a_plain_broker_needs_no_certificate(tmp_path):
    workspace = Workspace(tmp_path)
    open_link(workspace, parse_broker_url("mqtt://127.0.0.1:1")).close()
    assert not workspace.identity_path.exists()


class Mortal:
    """A broker that has died with a status, or lives."""

    def __init__(self, ended) -> None:
        self.ended, self.closed = ended, False

    def close(self) -> None:
        self.closed = True


class FullDisk:
    """A register that cannot be read until `mended`."""

    mended, noted = False, 0

    def look(self):
        if not self.mended:
            raise StorageError("no room")
        return Needed.RESTART

    def note_in_force(self) -> None:
        self.noted += 1


def test_a_full_disk_does_not_end_the_broker(caplog):
    started, disk = [], FullDisk()

    def start():
        started.append(Mortal(ended=None))
        return started[-1]

    supervised = SupervisedBroker(start, disk)
    for _ in range(3):
        supervised.tend()
    assert len(started) == 1
    assert caplog.text.count("no room; the broker goes on") == 1
    assert disk.noted == 1
    disk.mended = True
    supervised.tend()
    assert started[0].closed
    assert disk.noted == 2


def test_a_broker_that_dies_is_started_again_but_not_for_ever():
    started = []

    def start():
        started.append(Mortal(ended=-9))
        return started[-1]

    supervised = SupervisedBroker(start)
    for _ in range(MOST_DEATHS - 1):
        supervised.tend()
    assert len(started) == MOST_DEATHS
    with pytest.raises(BrokerError, match=f"died {MOST_DEATHS} times .* with status -9"):
        supervised.tend()
