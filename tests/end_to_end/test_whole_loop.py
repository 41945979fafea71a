"""The whole loop as its users run it: commands, a real broker, an agent in its own process."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from support import graphs
from support.brokers import KINDS, broker_of, connected
from trimtab.fleet.broker import Broker
from trimtab.fleet.publish import assign
from trimtab.fleet.shelf import Shelf
from trimtab.graph.run import run_graph
from trimtab.workflow.workspace import Workspace
from trimtab_agent.contract import codec, topics
from trimtab_agent.contract.chunks import all_chunks
from trimtab_agent.contract.manifest import parse_manifest
from trimtab_agent.contract.messages import Progress

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
DEVICE = "bench-1"


def run(*arguments: object, code: int = 0, program: str = "trimtab") -> str:
    """Runs a command, checks its exit code, and returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


class Setup:
    """A model with data, a workspace, a broker and an agent."""

    def __init__(self, root: Path, broker: str) -> None:
        self.root, self.broker = root, broker
        self.model, self.data = root / "tiny.onnx", root / "tiny.npz"
        self.workspace = root / "workspace"
        self.config = root / "agent.toml"
        self.handle: Broker

    def make(self) -> None:
        model = graphs.plain()
        ir.save(model, self.model)
        x = np.random.default_rng(0).normal(size=(600, 3, 8, 8)).astype(np.float32)
        y = run_graph(model, [x])[0].argmax(axis=1)
        np.savez(self.data, x_train=x[:400], y_train=y[:400], x_test=x[400:], y_test=y[400:])
        run("init", self.workspace)
        self.config.write_text(
            f'device = "{DEVICE}"\nprofile = "generic-x86-64"\nbroker = "{self.broker}"\n'
            'state_dir = "state"\nroot = "workspace/repository/metadata/1.root.json"\n'
            "timeout_s = 5\n[measure]\nduration_s = 0.5\n"
        )

    def compress_and_package(self, version: str, *, seed: int = 0) -> Path:
        out = self.root / f"out-{version}"
        options = ("--profile", "generic-x86-64", "--target", "onnxruntime", "--seed", seed)
        run("compress", self.model, "--data", self.data, *options, "-o", out)
        done = run(
            "package", out / "onnxruntime", "--name", "tiny", "--version", version,
            "-w", self.workspace, "--json",
        )  # fmt: skip
        return Path(json.loads(done)["package"])

    def publish(self, version: str, code: int = 0) -> dict:
        done = run(
            "publish", f"tiny-{version}", "--device", DEVICE, "-w", self.workspace,
            "-b", self.broker, "--wait-s", 90, "--json", code=code,
        )  # fmt: skip
        return json.loads(done)

    def status(self) -> dict:
        return json.loads(
            run("status", "--config", self.config, "--json", program="trimtab_agent.cli")
        )


@pytest.fixture(params=KINDS)
def setup(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Setup]:
    with broker_of(request.param, tmp_path / "broker") as broker:
        made = Setup(tmp_path, broker.url)
        made.make()
        made.handle = broker
        with (tmp_path / "agent.log").open("w") as log:
            agent = subprocess.Popen(
                [sys.executable, "-m", "trimtab_agent.cli", "run", "--config", str(made.config)],
                stdout=log,
                stderr=log,
            )
        yield made
        agent.terminate()
        assert agent.wait(20) == 0, (tmp_path / "agent.log").read_text()


def test_by_hand(setup: Setup):
    """compress, package, publish, run, report; then a second version, and the sizes add up."""
    package = setup.compress_and_package("1")
    report = setup.publish("1")["reports"][0]
    assert report["outcome"] == "active"
    assert report["active"] == "tiny-1.json"
    assert report["measurement"]["latency"]["count"] >= 59
    assert report["measurement"]["energy"]["level"] in ("none", "counter", "integrated_samples")
    assert report["golden"]["max_abs_error"] <= report["golden"]["limit"]

    setup.compress_and_package("2", seed=1)
    second = setup.publish("2")["reports"][0]
    assert second["transfer"]["chunks_reused"] <= second["transfer"]["chunks"]
    assert setup.status()["active"] == "tiny-2.json"
    assert setup.status()["previous"] == "tiny-1.json"

    rows = json.loads(run("report", "-w", setup.workspace, "--json"))
    assert [row["report"]["target"] for row in rows] == ["tiny-1.json", "tiny-2.json"]
    assert rows[0]["manifest"]["sizes"]["wire_bytes"] <= package.stat().st_size


def test_chunks_changed_on_the_broker_never_run_and_the_old_version_stays(setup: Setup):
    """Nobody is there who could repair them: the device says so, and goes on trying."""
    setup.compress_and_package("1")
    setup.publish("1")
    package = setup.compress_and_package("2", seed=2)
    # An attacker who holds the broker changes every chunk of the new version, right after the
    # host has published it and before the device is told to fetch it.
    run("publish", "tiny-2", "-w", setup.workspace, "-b", setup.broker)
    manifest = parse_manifest(_manifest_of(package))
    with connected(setup.handle, "attacker") as link:
        for chunk in all_chunks(manifest.files):  # those of deltas too
            data = bytes(chunk.wire_bytes)
            link.publish(topics.blob(chunk.sha256), data, retain=True, wait_s=5)
    progress = _assign_and_wait(setup, "tiny-2.json", lambda said: "tried again in" in said.detail)
    assert progress.state == "fetching"
    status = setup.status()
    assert (status["active"], status["updating"]) == ("tiny-1.json", "tiny-2.json")


def test_optimize_until_the_budget_is_met_and_resume_for_nothing(setup: Setup):
    """The device's own figures drive the search; a second run finds everything done."""
    out = setup.root / "search"
    arguments = (
        "optimize", setup.model, "--data", setup.data, "--profile", "generic-x86-64",
        "--device", DEVICE, "-o", out, "-w", setup.workspace, "-b", setup.broker,
        "--target", "onnxruntime", "--max-latency-us", 1_000_000, "--max-drop", 5, "--json",
    )  # fmt: skip
    summary = json.loads(run(*arguments))
    assert summary["stopped_by"] == "budget met"
    chosen = next(row for row in summary["rows"] if row["chosen"])
    assert chosen["outcome"] == "met"
    assert chosen["id"] in setup.status()["active"]
    assert json.loads((out / "report.json").read_text())["rows"] == summary["rows"]
    assert chosen["id"] in (out / "report.html").read_text()

    started = time.monotonic()
    again = json.loads(run(*arguments))
    assert [row["id"] for row in again["rows"]] == [row["id"] for row in summary["rows"]]
    assert time.monotonic() - started < 60


def _manifest_of(package: Path) -> bytes:
    import zipfile

    with zipfile.ZipFile(package) as archive:
        return archive.read("manifest.json")


def _assign_and_wait(setup: Setup, target: str, wanted: Callable[[Progress], bool]) -> Progress:
    """Assigns a release without publishing its chunks again, and waits for a word of the device."""
    workspace = Workspace.open(setup.workspace)
    shelf = Shelf(workspace.database_url)
    heard: queue.Queue[Progress] = queue.Queue()
    with connected(setup.handle, "host") as link:
        link.subscribe(
            topics.progress(DEVICE),
            lambda _, body, __: heard.put(codec.decode(body, Progress, what="progress")),
        )
        assign(link, workspace.repository(), DEVICE, target, shelf=shelf)
        while not wanted(progress := heard.get(timeout=90)):
            pass
    shelf.close()
    return progress
