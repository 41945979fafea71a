"""The command, as a process of its own: against a real broker, with a real model."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import sys
import time

import pytest

from support import agent_brokers as brokers
from support.host import Host, real_package, write_config
from trimtab_agent import __version__
from trimtab_agent.cli import exit_code
from trimtab_agent.contract import topics
from trimtab_agent.contract.measurement import OperatorTime
from trimtab_agent.link import BrokerUrl
from trimtab_agent.output import _operator_table

LINKS = ("current", "previous")
AGENT = [sys.executable, "-m", "trimtab_agent.cli"]


def run(*arguments, timeout_s=60):
    return subprocess.run(
        [*AGENT, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


@contextlib.contextmanager
def running(*arguments):
    """A process that is killed at the end if it has not ended by itself."""
    process = subprocess.Popen(
        [*AGENT, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            yield process
        finally:
            process.kill()  # before Popen waits for its end


@pytest.fixture
def port():
    return brokers.free_port()


@pytest.fixture(params=brokers.KINDS)
def host(request, tmp_path, port):
    with (
        brokers.broker(request.param, tmp_path, port=port) as address,
        contextlib.closing(Host(address)) as made,
    ):
        yield made


@pytest.fixture
def config(tmp_path, host):
    return write_config(tmp_path, host)


def wait_for(inbox, wanted, timeout_s=30):
    """Returns the first value in `inbox` for which `wanted` holds."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = inbox.get(timeout=max(deadline - time.monotonic(), 0.01))
        if wanted(value):
            return value


def test_one_update_from_the_assignment_to_the_acknowledged_report(host, config, tmp_path):
    target = host.release(real_package(tmp_path / "made", "1"))
    host.assign(1, target, trial="t-1")
    done = run("run", "--config", config, "--once", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    states = [line["progress"]["state"] for line in lines[:-1]]
    assert states == [
        "assigned",
        "fetching",
        "verifying",
        "staged",
        "checked",
        "measured",
        "trial",
        "committed",
    ]
    report = lines[-1]["report"]
    assert (report["outcome"], report["active"], report["trial"]) == ("active", target, "t-1")
    assert report["measurement"]["latency"]["count"] > 0
    assert report["golden"]["max_abs_error"] == 0
    assert host.reports.get(timeout=5).id == report["id"]
    assert wait_for(host.progress, lambda p: p.state == "measured").target == target
    online = wait_for(host.status, lambda s: s.online)
    assert online.inventory.profile == "generic-x86-64"
    assert wait_for(host.status, lambda s: s.online and s.active == target)
    assert not wait_for(host.status, lambda s: not s.online).online

    status = json.loads(run("status", "--config", config, "--json").stdout)
    assert (status["active"], status["counter"], status["outbox"]) == (target, 1, 0)
    assert "active          model-1.json" in run("status", "--config", config).stdout
    check_bench(config, target)


def check_bench(config, target):
    """Measures the active model again: TFLite's Python has no profiler, and it is said."""
    found = json.loads(run("bench", "--config", config, "--json").stdout)["bench"]
    assert (found["target"], found["operators"], found["operator_runs"]) == (target, None, None)
    assert found["measurement"]["latency"]["count"] > 0
    first, second = run("bench", "--config", config, "--operators").stdout.splitlines()
    assert first.startswith("model-1.json: median latency")
    assert "XNNPACK" in first
    assert second == "tflite has no times of single operators for Python programs"


@pytest.fixture
def mosquitto_host(tmp_path, port):
    with (
        brokers.broker("mosquitto", tmp_path, port=port) as address,
        contextlib.closing(Host(address)) as made,
    ):
        yield made


@pytest.fixture
def mosquitto_config(tmp_path, mosquitto_host):
    return write_config(tmp_path, mosquitto_host)


def flip_a_byte(host, package):
    sha256, wire = next(iter(package.wire.items()))
    evil = bytes([wire[0] ^ 1]) + wire[1:]
    host.link.publish(topics.blob(sha256), evil, retain=True, wait_s=5)


@pytest.mark.slow
def test_a_package_with_one_byte_changed_never_runs(mosquitto_host, mosquitto_config, tmp_path):
    """Nobody is there who could repair it: the update stands, and waits for somebody."""
    package = real_package(tmp_path / "made", "1")
    target = mosquitto_host.release(package)
    flip_a_byte(mosquitto_host, package)
    mosquitto_host.assign(1, target)
    assert run("run", "--config", mosquitto_config, "--once").returncode == 5
    state = json.loads(run("status", "--config", mosquitto_config, "--json").stdout)
    assert (state["active"], state["updating"], state["step"]) == (None, target, "fetching")


def test_wrong_outputs_leave_the_version_before(mosquitto_host, mosquitto_config, tmp_path):
    good = mosquitto_host.release(real_package(tmp_path / "one", "1"))
    mosquitto_host.assign(1, good)
    assert run("run", "--config", mosquitto_config, "--once").returncode == 0
    mosquitto_host.assign(
        2, mosquitto_host.release(real_package(tmp_path / "two", "2", wrong=True))
    )
    done = run("run", "--config", mosquitto_config, "--once")
    assert done.returncode == 3
    assert "model-1.json stays active" in done.stdout
    report = wait_for(mosquitto_host.reports, lambda report: report.counter == 2)
    assert (report.outcome, report.failure.reason, report.active) == ("refused", "golden", good)


def test_a_forged_assignment_is_refused_and_the_next_one_is_done(
    mosquitto_host, mosquitto_config, tmp_path
):
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    target = mosquitto_host.release(real_package(tmp_path / "made", "1"))
    mosquitto_host.assign(9, target, key=Ed25519PrivateKey.generate())
    done = run("run", "--config", mosquitto_config, "--once", "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["error"]["reason"] == "trust"
    with running("run", "--config", mosquitto_config) as process:
        assert "no good signature" in process.stderr.readline()
        mosquitto_host.assign(1, target)
        assert mosquitto_host.reports.get(timeout=30).outcome == "active"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_reports_survive_a_kill_and_wait_for_the_host(mosquitto_host, mosquitto_config, tmp_path):
    mosquitto_host.acknowledges = False
    target = mosquitto_host.release(real_package(tmp_path / "made", "1"))
    mosquitto_host.assign(1, target)
    with running("run", "--config", mosquitto_config) as process:
        first = mosquitto_host.reports.get(timeout=30)
        process.kill()
    assert not wait_for(mosquitto_host.status, lambda s: not s.online and s.device).online
    status = json.loads(run("status", "--config", mosquitto_config, "--json").stdout)
    assert status["outbox"] == 1
    mosquitto_host.acknowledges = True
    with running("run", "--config", mosquitto_config) as process:
        assert mosquitto_host.reports.get(timeout=30) == first
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    status = json.loads(run("status", "--config", mosquitto_config, "--json").stdout)
    assert status["outbox"] == 0


@pytest.fixture
def lonely_config(tmp_path, port):
    (tmp_path / "1.root.json").write_text("{}")
    path = tmp_path / "agent.toml"
    path.write_text(
        f'device = "dev-1"\nprofile = "generic-x86-64"\nbroker = "{BrokerUrl("127.0.0.1", port)}"\n'
        f'state_dir = "state"\nroot = "1.root.json"\n'
    )
    return path


def test_a_broker_that_is_not_there(lonely_config, port):
    done = run("run", "--config", lonely_config, "--once")
    assert done.returncode == 5
    message = f"cannot reach the broker at mqtt://127.0.0.1:{port}: [Errno 111] Connection refused"
    assert done.stderr == f"trimtab-agent: error: {message}\n"
    done = run("run", "--config", lonely_config, "--once", "--json")
    assert done.returncode == 5
    assert json.loads(done.stdout) == {"error": {"reason": "broker", "message": message}}


def test_a_broker_that_comes_later_is_waited_for(lonely_config, port, tmp_path):
    with running("run", "--config", lonely_config) as process:
        assert "; trying again in " in process.stderr.readline()
        with (
            brokers.broker("mosquitto", tmp_path, port=port) as address,
            contextlib.closing(Host(address)) as host,
        ):
            assert wait_for(host.status, lambda s: s.online)
            process.send_signal(signal.SIGTERM)
            assert not wait_for(host.status, lambda s: not s.online).online
            assert process.wait(10) == 0


def test_two_agents_cannot_share_a_state_directory(lonely_config):
    with running("run", "--config", lonely_config) as process:
        process.stderr.readline()
        done = run("run", "--config", lonely_config)
    assert done.returncode == 2
    assert "is in use by another trimtab-agent" in done.stderr


def test_a_configuration_that_is_not_there(tmp_path):
    done = run("run", "--config", tmp_path / "no.toml")
    assert done.returncode == 2
    assert done.stderr.startswith("trimtab-agent: error: cannot read the configuration")
    assert done.stderr.count("\n") == 1


def test_the_status_of_a_device_that_never_ran(lonely_config):
    status = json.loads(run("status", "--config", lonely_config, "--json").stdout)
    assert (status["active"], status["counter"], status["outbox"]) == (None, None, 0)
    assert not (lonely_config.parent / "state").exists()


def test_operators_in_a_table():
    cost = {"operator": "Conv", "kernel": "CPUExecutionProvider", "calls": 20}
    operators = (
        OperatorTime(name="first", time_us=3000.0, **cost),
        OperatorTime(name="second", time_us=1000.0, **{**cost, "kernel": None}),
    )
    assert list(_operator_table(operators, 20)) == [
        "  us a run  share  calls  operator, kernel, name",
        "     150.0  75.0%      1  Conv, CPUExecutionProvider, first",
        "      50.0  25.0%      1  Conv, not told, second",
    ]


def test_nothing_to_bench(lonely_config):
    done = run("bench", "--config", lonely_config)
    assert done.returncode == 2
    assert "nothing is active on dev-1: assign a package to it first" in done.stderr


def test_help_and_version_need_none_of_the_heavy_libraries():
    code = (
        "import sys, trimtab_agent.cli as cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('paho', 'tuf', 'numpy', 'msgspec') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
    assert run("--version").stdout == f"trimtab-agent {__version__}\n"


def test_exit_codes_by_reason():
    assert [exit_code(word) for word in ("integrity", "storage", "transfer_timeout", "new")] == [
        3,
        4,
        5,
        1,
    ]


@pytest.mark.slow
def test_killed_at_random_moments_the_agent_ends_what_it_began(
    mosquitto_host, mosquitto_config, tmp_path
):
    chance = random.Random(20261122)
    packages = mosquitto_config.parent / "state" / "packages"
    for counter in range(1, 6):
        target = mosquitto_host.release(real_package(tmp_path / str(counter), str(counter)))
        mosquitto_host.assign(counter, target)
        for _ in range(2):
            with running("run", "--config", mosquitto_config) as process:
                time.sleep(chance.uniform(0.3, 3))
                process.kill()
        while not mosquitto_host.status.empty():
            mosquitto_host.status.get()
        with running("run", "--config", mosquitto_config) as process:
            # A killed one may have sent the report already; this one must have come up too.
            wait_for(mosquitto_host.status, lambda s: s.online)
            report = wait_for(mosquitto_host.reports, lambda r, n=counter: r.counter == n)
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
        assert (report.outcome, report.active) == ("active", target)
        versions = {path.name for path in (packages / "versions").iterdir()}
        assert versions == {
            (packages / name).resolve().name for name in LINKS if (packages / name).exists()
        }
        assert list((packages / "staging").iterdir()) == []
