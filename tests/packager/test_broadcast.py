"""One transmission for a group: who gets what, at which pace, and the command around it."""

from __future__ import annotations

import json
import sys
import threading
import time

import pytest

from support.brokers import broker_of, connected
from support.packages import make_package
from trimtab.cli.app import main
from trimtab.fleet.broadcast import broadcast, needed_chunks, wait_until_fetching
from trimtab.fleet.ingest import Ingest
from trimtab.package.read import open_package
from trimtab.workflow.workspace import Workspace
from trimtab_agent.broadcast import Broadcast
from trimtab_agent.contract import codec, layout, topics
from trimtab_agent.contract.chunks import all_chunks, distinct_chunks, sha256_hex
from trimtab_agent.contract.messages import Assignment, Gates, Progress, Signed
from trimtab_agent.errors import CallerError


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    directory = tmp_path_factory.mktemp("package")
    return open_package(make_package(directory, chunk_limit_bytes=16 * 1024))


class Time:
    """A clock that only sleeping moves."""

    def __init__(self):
        self.now = 100.0
        self.slept = []

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


class Recorder:
    def __init__(self):
        self.sent = []

    def publish(self, topic, payload, *, wait_s):
        self.sent.append((topic, payload))


def test_each_chunk_is_sent_once_to_the_group_and_not_retained(package):
    link, time_ = Recorder(), Time()
    chunks = distinct_chunks(package.manifest.files)
    wanted = {chunk.sha256 for chunk in chunks[1:]}
    sent_bytes = broadcast(
        link, package, "line-1", wanted, bytes_per_s=1e9, clock=lambda: time_.now, sleep=time_.sleep
    )
    assert {topic for topic, _ in link.sent} == {"trimtab/v1/group/line-1/chunk"}
    assert [sha256_hex(wire) for _, wire in link.sent] == [c.sha256 for c in chunks[1:]]
    assert sent_bytes == sum(chunk.wire_bytes for chunk in chunks[1:])


def test_the_pace_is_kept_and_a_slow_broker_is_not_made_up_for_in_a_burst(package):
    link, time_ = Recorder(), Time()
    wanted = {chunk.sha256 for chunk in distinct_chunks(package.manifest.files)}
    sent_bytes = broadcast(
        link, package, "g", wanted, bytes_per_s=1e5, clock=lambda: time_.now, sleep=time_.sleep
    )
    last_bytes = len(link.sent[-1][1])
    assert sum(time_.slept) == pytest.approx((sent_bytes - last_bytes) / 1e5)


def test_a_group_without_a_usable_name_is_refused(package):
    with pytest.raises(CallerError, match="'a/b' is not usable"):
        broadcast(Recorder(), package, "a/b", set(), bytes_per_s=1e9)


def test_devices_that_have_a_version_need_the_delta_and_others_the_whole(tmp_path):
    old = open_package(make_package(tmp_path, data=bytes(range(256)) * 400))
    changed = bytearray(bytes(range(256)) * 400)
    changed[1000] ^= 1
    path = make_package(tmp_path, version="2", data=bytes(changed), bases=[old.as_base()])
    manifest = open_package(path).manifest
    file = manifest.file("model.tflite")
    (delta,) = file.deltas
    golden = next(entry for entry in manifest.files if entry.path != file.path)
    assert needed_chunks(manifest, [None]) == distinct_chunks(manifest.files)
    assert needed_chunks(manifest, [old.manifest]) == list(delta.chunks)
    assert set(needed_chunks(manifest, [old.manifest, None])) == {
        *file.chunks,
        *delta.chunks,
        *golden.chunks,
    }
    assert needed_chunks(manifest, [manifest]) == []


class LocalLink:
    def __init__(self):
        self.handlers = {}

    def subscribe(self, topic, handler):
        self.handlers[topic] = handler

    def progress(self, device, counter, state):
        message = Progress(device=device, counter=counter, target="demo-1.json", state=state)
        self.handlers[topics.ALL_PROGRESS](topics.progress(device), codec.encode(message), {})


def an_assignment(device, counter):
    return Assignment(device=device, counter=counter, target="demo-1.json", issued="", expires="")


def test_it_begins_when_all_fetch_or_a_little_after_the_first():
    link = LocalLink()
    ingest = Ingest(link, None)
    given = [an_assignment("a", 3), an_assignment("b", 7)]
    assert wait_until_fetching(ingest, given, first_s=0.05) == []
    link.progress("a", 2, "fetching")  # of an assignment before
    link.progress("b", 7, "assigned")
    assert wait_until_fetching(ingest, given, first_s=0.05) == []
    link.progress("b", 7, "fetching")
    start = time.monotonic()
    assert wait_until_fetching(ingest, given, others_s=0.1) == ["b"]
    assert time.monotonic() - start >= 0.1
    timer = threading.Timer(0.05, link.progress, ("a", 3, "fetching"))
    timer.start()
    assert wait_until_fetching(ingest, given, others_s=30) == ["a", "b"]
    timer.join()


def test_devices_hear_it_over_a_broker(tmp_path, package):
    chunks = distinct_chunks(package.manifest.files)
    with (
        broker_of("mosquitto", tmp_path / "broker") as broker,
        connected(broker, "host") as host,
        connected(broker, "one") as one,
        connected(broker, "two") as two,
    ):
        came = {}
        threads = [
            threading.Thread(
                target=lambda name=name, link=link: came.update(
                    {
                        name: dict(
                            Broadcast(link, "line-1", timeout_s=5).fetch(chunks, stop=lambda: False)
                        )
                    }
                )
            )
            for name, link in (("one", one), ("two", two))
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        broadcast(host, package, "line-1", {chunk.sha256 for chunk in chunks}, bytes_per_s=1e7)
        for thread in threads:
            thread.join()
    wires = dict(package.wire_chunks())
    assert came == {name: {c: wires[c] for c in chunks} for name in ("one", "two")}


# The command.


@pytest.fixture
def workspace(tmp_path):
    workspace = Workspace.create(tmp_path / "workspace")
    (tmp_path / "made").mkdir()
    path = make_package(tmp_path / "made", data=b"model" * 1000)
    path.rename(workspace.packages / path.name)
    return workspace


@pytest.fixture
def run(workspace, monkeypatch):
    """Runs `trimtab publish demo-1` in this process; returns the exit code."""

    def publish(*arguments):
        options = ["publish", "demo-1", "-w", workspace.path, *arguments]
        monkeypatch.setattr(sys, "argv", ["trimtab", *map(str, options)])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return publish


def test_a_folder_is_written_without_a_broker(run, workspace, tmp_path, capsys):
    usb = tmp_path / "usb"
    code = run(
        "--device", "a", "--device", "b", "--device", "a", "--folder", usb,
        "--max-slowdown", "1.5", "--max-memory-growth", "off", "--no-budget-gate",
        "--probation-s", "60", "--json",
    )  # fmt: skip
    assert code == 0
    said = json.loads(capsys.readouterr().out)
    assert [given["device"] for given in said["assignments"]] == ["a", "b"]
    signed = codec.decode((usb / layout.assignment("b")).read_bytes(), Signed, what="message")
    assignment = codec.decode(signed.payload, Assignment, what="assignment")
    assert assignment.gates == Gates(
        budget=False, latency_ratio=1.5, memory_ratio=None, energy_ratio=1.1
    )
    assert assignment.probation_s == 60.0
    package = open_package(workspace.packages / "demo-1.trimtab")
    assert said["written"]["chunks_written"] == len(all_chunks(package.manifest.files))
    assert run("--folder", usb) == 0
    assert "0 of" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--group", "g"], "name each with --device"),
        (["--group", "g", "--device", "a", "--folder", "x"], "needs a broker"),
        (["--group", "a/b", "--device", "a"], "'a/b' is not usable"),
        (["--device", "a", "--device", "b c"], "'b c' is not usable"),
        (["--bytes-per-s", "0"], "must be positive, got 0"),
        (["--probation-s", "-1"], "must not be negative, got -1"),
        (["--max-slowdown", "fast"], "--max-slowdown takes a ratio such as 1.1, or off; got 'fas"),
        (["--max-energy-growth", "-2"], "--max-energy-growth takes a ratio"),
        (["--max-memory-growth", "nan"], "--max-memory-growth takes a ratio"),
    ],
)
def test_options_that_contradict_each_other_are_refused(run, arguments, said, capsys):
    assert run(*arguments, "-b", "mqtt://127.0.0.1:9") == 2
    assert said in capsys.readouterr().err


def test_devices_that_stay_silent_are_each_named_in_one_json(run, tmp_path, capsys):
    with broker_of("mosquitto", tmp_path / "broker") as broker:
        arguments = ("--device", "a", "--device", "b", "-b", broker.url)
        assert run(*arguments, "--wait-s", "0.1", "--json") == 4
    said = json.loads(capsys.readouterr().out)
    assert [given["device"] for given in said["assignments"]] == ["a", "b"]
    assert said["reports"] == []
    assert [error["reason"] for error in said["errors"]] == ["device_timeout"] * 2
    assert "device 'b' sent no report" in said["errors"][1]["message"]
