"""The device's own commands: what they are told, and how they may fail."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from support.manifests import small_package
from trimtab_agent.config import HealthConfig, HooksConfig
from trimtab_agent.errors import HealthError, HookError
from trimtab_agent.hooks import DeviceHooks, run_command
from trimtab_agent.version import Version

PACKAGE = small_package("7", name="watch")
VERSION = Version(PACKAGE.sha256, Path("/packages/versions/ab"), PACKAGE.manifest)


def python(*lines):
    return (sys.executable, "-c", "\n".join(lines))


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def test_a_command_is_told_what_it_is_about_and_nothing_else(out, monkeypatch):
    monkeypatch.setenv("SECRET", "of the agent")
    command = python("import os", f"open({str(out)!r}, 'w').write(repr(dict(os.environ)))")
    hooks = DeviceHooks("dev-1", HooksConfig(before_switch=command), HealthConfig())
    hooks.run("before_switch", VERSION)
    told = eval(out.read_text())
    assert told.pop("PATH").startswith("/usr/local/sbin:")
    assert {name: told[name] for name in told if name.startswith("TRIMTAB_")} == {
        "TRIMTAB_DEVICE": "dev-1",
        "TRIMTAB_VERSION_DIR": "/packages/versions/ab",
        "TRIMTAB_MODEL": "/packages/versions/ab/model/weights.bin",
        "TRIMTAB_PACKAGE": "watch",
        "TRIMTAB_VERSION": "7",
    }
    assert "SECRET" not in told


def test_what_is_not_configured_does_nothing():
    hooks = DeviceHooks("dev-1", HooksConfig(), HealthConfig())
    hooks.run("after_rollback", None)
    assert not hooks.has_health


def test_a_hook_that_fails_says_its_last_line():
    command = python("print('one'); print('  the valve is open  '); print(); raise SystemExit(3)")
    hooks = DeviceHooks("d", HooksConfig(after_switch=command), HealthConfig(command=command))
    said = "failed with exit code 3: the valve is open$"
    with pytest.raises(HookError, match=rf"^the hook after_switch \S+ {said}"):
        hooks.run("after_switch", VERSION)
    with pytest.raises(HealthError, match=rf"^the health command \S+ {said}"):
        hooks.check_health(VERSION)


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        (("/nowhere/at/all",), "cannot be started: No such file or directory"),
        (("/etc/passwd",), "cannot be started: Permission denied"),
        (python("import os, signal; os.kill(os.getpid(), 11)"), "was killed by signal 11"),
        (python("import sys; sys.stdout.write('x' * 10**7); sys.exit(1)"), "exit code 1: xxx"),
        (python("import sys; sys.stdout.buffer.write(b'\\xff\\xfe'); sys.exit(1)"), "code 1: "),
    ],
)
def test_each_way_to_fail_is_named(command, fault):
    assert fault in run_command(command, {}, 20)


def ends(process, within_s=10):
    """Says whether a process that was killed is gone, or waits for its parent to notice."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_a_command_that_hangs_is_ended_with_what_it_started(out):
    child = f"import time; open({str(out)!r}, 'w').write(str(__import__('os').getpid()))"
    command = python(
        "import subprocess, sys, time",
        f"subprocess.Popen([sys.executable, '-c', {child + '; time.sleep(60)'!r}])",
        "print('waiting', flush=True)",
        "time.sleep(60)",
    )
    begin = time.monotonic()
    assert run_command(command, {}, 1.0) == "was ended after 1 s: waiting"
    assert time.monotonic() - begin < 10
    if out.exists() and out.read_text():
        assert ends(int(out.read_text()))


def test_a_command_ends_although_what_it_left_behind_holds_its_output():
    command = ("/bin/sh", "-c", "sleep 60 & exit 0")
    begin = time.monotonic()
    assert run_command(command, {"PATH": "/usr/bin:/bin"}, 30) is None
    assert time.monotonic() - begin < 10
