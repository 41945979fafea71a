"""Sources before the broker, and updates without one."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from datetime import datetime, timedelta, timezone

import pytest

from support.host import real_package
from support.manifests import small_package
from support.tuf_simulator import RetainedBroker, TufSimulator
from support.updates import Device, World, assignment_message
from trimtab_agent.config import load_config
from trimtab_agent.contract import layout
from trimtab_agent.contract.messages import Assignment
from trimtab_agent.errors import (
    CallerError,
    ConfigError,
    DocumentMissingError,
    NetworkError,
    TrustError,
)
from trimtab_agent.fetcher import MqttDocuments
from trimtab_agent.folder_source import Folder
from trimtab_agent.nearby import NearbyDocuments, nearby_ways
from trimtab_agent.offline import TRIES, update_from
from trimtab_agent.trust import TrustStore

MANIFEST = b'{"a": "manifest"}'
NAME = hashlib.sha256(MANIFEST).hexdigest()


def write(folder, path, data):
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


@pytest.fixture
def broker():
    broker = RetainedBroker()
    broker.publish_document(NAME, MANIFEST)
    broker.publish_document("timestamp.json", b"fresh")
    return broker


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "usb", layout.document(NAME), MANIFEST)
    write(tmp_path / "usb", layout.document("timestamp.json"), b"stale")
    return tmp_path / "usb"


def documents(broker, *folders):
    return NearbyDocuments(
        [Folder(folder) for folder in folders], MqttDocuments(broker, timeout_s=0.2)
    )


def test_what_is_named_by_its_hash_comes_from_nearby(folder, broker):
    broker.retained.clear()
    assert b"".join(documents(broker, folder).read(NAME)) == MANIFEST


def test_metadata_comes_from_the_broker_alone(folder, broker):
    write(folder, layout.document("2.root.json"), b"from the stick")
    nearby = documents(broker, folder)
    assert b"".join(nearby.read("timestamp.json")) == b"fresh"
    broker.retained["trimtab/v1/root-version"] = b"1", {}
    with pytest.raises(DocumentMissingError):
        list(nearby.read("2.root.json"))


@pytest.mark.parametrize("damage", ["gone", "wrong", "link", "unmounted"])
def test_a_source_that_is_gone_or_wrong_is_left_aside_with_a_warning(
    folder, broker, damage, tmp_path, caplog
):
    file = folder / layout.document(NAME)
    if damage == "wrong":
        file.write_bytes(b"poison")
    else:
        file.unlink()
    if damage == "link":
        file.symlink_to("/etc/hostname")
    if damage == "unmounted":
        folder = tmp_path / "other"
    assert b"".join(documents(broker, folder).read(NAME)) == MANIFEST
    (record,) = caplog.records
    assert str(folder) in record.getMessage()


def test_the_second_source_is_asked_when_the_first_lacks_it(folder, broker, tmp_path):
    broker.retained.clear()
    assert b"".join(documents(broker, tmp_path / "empty", folder).read(NAME)) == MANIFEST


def test_chunks_are_asked_for_nearby_first():
    ways = nearby_ways(
        [Folder("/media/usb"), Folder("/mnt/share")], lambda group: {f"broker of {group}": None}
    )
    assert list(ways("line-1")) == ["file:/media/usb", "file:/mnt/share", "broker of line-1"]


def test_a_wrong_source_in_the_configuration_is_named(tmp_path):
    path = tmp_path / "agent.toml"
    path.write_text(
        'device = "d"\nprofile = "p"\nbroker = "mqtt://h"\nstate_dir = "s"\nroot = "r"\n'
        '[transfer]\nsources = ["file:/media/usb", "usb"]\n'
    )
    with pytest.raises(ConfigError, match=r"'usb' is no source: .* - at `\$.transfer.sources\[1\]"):
        load_config(path)
    path.write_text(path.read_text().replace('"usb"', '"https://cache.plant/trimtab"'))
    assert load_config(path).transfer.sources[1] == "https://cache.plant/trimtab"


# Without a broker.


@pytest.fixture
def device(tmp_path):
    device = Device(tmp_path / "device", world=World())
    yield device
    device.close()


def offline(device, folder):
    def sleep(seconds):
        device.world.uptime_s += seconds

    return update_from(Folder(folder), "dev-1", device.updater, device.memory, sleep=sleep)


@pytest.fixture
def assigned(device, folder):
    target = device.world.release(small_package("1"))
    write(folder, layout.assignment("dev-1"), assignment_message(3, target))
    return target


def test_one_update_is_done_and_its_report_kept(device, folder, assigned, caplog):
    report = offline(device, folder)
    assert (report.outcome, report.active, device.active) == ("active", assigned, assigned)
    assert device.reports == [report]
    assert offline(device, folder) is None  # the same stick once more
    assert "nothing to do: this was done before" in caplog.text
    assert device.reports == [report]


def test_a_stick_without_an_assignment_says_what_to_do(device, folder):
    with pytest.raises(CallerError, match="has no assignment for dev-1: write it with `trimtab pu"):
        offline(device, folder)


def test_an_assignment_that_is_refused_is_an_error(device, folder, assigned):
    device.world.faults["verify_assignment"] = [TrustError("signed by nobody")]
    with pytest.raises(TrustError, match="signed by nobody"):
        offline(device, folder)


def test_what_does_not_come_is_tried_a_few_times(device, folder, assigned):
    device.world.faults["pull"] = [NetworkError("the stick is out")] * TRIES
    with pytest.raises(NetworkError, match="the stick is out"):
        offline(device, folder)
    assert offline(device, folder).outcome == "active"  # goes on where it was


def write_repository(simulator, folder):
    for topic, (payload, _) in sorted(simulator.broker.retained.items()):
        if "/doc/" in topic:
            *_, name, part = topic.split("/")
            path = folder / layout.document(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb" if part == "0" else "ab") as file:
                file.write(payload)


def test_a_repository_in_a_folder_is_believed_without_a_broker(tmp_path):
    simulator = TufSimulator()
    simulator.release("demo-1.json", MANIFEST)
    write_repository(simulator, tmp_path / "usb")
    trust = TrustStore(tmp_path / "trust", simulator.roots[0])
    assert trust.target(Folder(tmp_path / "usb"), "demo-1.json") == MANIFEST


def agent(*arguments):
    command = [sys.executable, "-m", "trimtab_agent.cli", "run", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_from_does_one_update_only(tmp_path):
    done = agent("--from", "file:/media/usb", "--config", tmp_path / "agent.toml")
    assert done.returncode == 2
    assert "--from does one update: add --once" in done.stderr


@pytest.mark.slow
def test_a_stick_brings_a_package_to_an_agent_that_has_no_broker(tmp_path):
    package, simulator = real_package(tmp_path / "made", "1"), TufSimulator()
    usb, target = tmp_path / "usb", package.manifest.target_name
    simulator.release(target, package.manifest_bytes)
    write_repository(simulator, usb)
    for sha256, wire in package.wire.items():
        write(usb, layout.blob(sha256), wire)
    now = datetime.now(timezone.utc)
    assignment = Assignment(
        device="dev-1",
        counter=1,
        target=target,
        issued=now.isoformat(timespec="seconds"),
        expires=(now + timedelta(days=1)).isoformat(timespec="seconds"),
    )
    write(usb, layout.assignment("dev-1"), simulator.assign(assignment))
    (tmp_path / "1.root.json").write_bytes(simulator.roots[0])
    config = tmp_path / "agent.toml"
    config.write_text(
        'device = "dev-1"\nprofile = "generic-x86-64"\nstate_dir = "state"\n'
        'root = "1.root.json"\n[measure]\nduration_s = 0.1\nenergy_s = 0.1\n'
    )
    done = agent("--once", "--from", f"file:{usb}", "--config", config, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])["report"]
    assert (report["outcome"], report["active"]) == ("active", target)
    assert report["transfer"]["by_way"] == {f"file:{usb}": len(package.wire)}
