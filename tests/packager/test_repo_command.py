"""`trimtab repo` as its users meet it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest

from trimtab.cli.app import main
from trimtab.package import pkcs8
from trimtab.workflow.workspace import Workspace

CALLER, EXPIRES_SOON = 2, 3


@dataclass(frozen=True)
class Done:
    """What a run of the command left behind."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def json(self):
        return json.loads(self.stdout)


@pytest.fixture
def trimtab(monkeypatch, capfd, tmp_path):
    """Runs the command in this process, in a workspace of its own."""
    monkeypatch.setattr(pkcs8, "SCRYPT_N", 2**4)
    monkeypatch.setenv("TRIMTAB_WORKSPACE", str(tmp_path / "w"))

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["trimtab", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return Done(code, *capfd.readouterr())

    return run


@pytest.fixture
def workspace(trimtab, tmp_path):
    trimtab("init", tmp_path / "w")
    return tmp_path / "w"


def test_init_without_a_terminal_says_that_keys_are_not_encrypted(trimtab, tmp_path):
    done = trimtab("init", tmp_path / "w")
    assert done.returncode == 0
    assert "keys are NOT encrypted" in done.stdout
    assert "NOT encrypted" in trimtab("repo", "status").stdout


@pytest.mark.parametrize("way", ["file", "environment"])
def test_the_passphrase_comes_from_a_file_or_the_environment(way, trimtab, tmp_path, monkeypatch):
    secret = tmp_path / "secret"
    secret.write_text("correct horse\n")
    given = ("--passphrase-file", secret) if way == "file" else ()
    if way == "environment":
        monkeypatch.setenv("TRIMTAB_PASSPHRASE", "correct horse")
    assert trimtab("init", tmp_path / "w", "--json", *given).json["encrypted"] is True
    done = trimtab("repo", "refresh", "root", *given)
    assert done.stdout.startswith("in force: 2.root.json")
    monkeypatch.delenv("TRIMTAB_PASSPHRASE", raising=False)
    done = trimtab("repo", "refresh", "root")
    assert done.returncode == CALLER
    assert "root.pem is encrypted and its passphrase is needed: give --passphrase-file" in (
        done.stderr
    )


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot be read"), (b"\n", "is empty"), (b"\xff", "cannot be")]
)
def test_a_passphrase_file_that_is_none_is_refused(content, message, trimtab, tmp_path):
    secret = tmp_path / "secret"
    if content is not None:
        secret.write_bytes(content)
    done = trimtab("init", tmp_path / "w", "--passphrase-file", secret)
    assert done.returncode == CALLER
    assert message in done.stderr
    assert not (tmp_path / "w").exists()


def test_several_keys_on_a_stick(trimtab, tmp_path):
    stick = tmp_path / "stick"
    done = trimtab("repo", "init", "--root-keys", 3, "--root-threshold", 2, "--keys", stick)
    assert done.returncode == CALLER
    assert "is no folder: mount it" in done.stderr
    stick.mkdir()
    trimtab("repo", "init", "--root-keys", 3, "--root-threshold", 2, "--keys", stick)
    assert sorted(path.name for path in stick.iterdir()) == [
        "root-1.pem",
        "root-2.pem",
        "root-3.pem",
        "targets.pem",
    ]
    status = trimtab("repo", "status").stdout
    assert "2 of 3" in status
    assert "not here" in status
    (stick / "root-1.pem").unlink()
    done = trimtab("repo", "rotate", "root", "--replace", "root-1", "--keys", stick)
    assert done.stdout.startswith("in force: 2.root.json")
    assert (stick / "root-4.pem").exists()


def test_a_change_that_waits_is_shown_and_signed(trimtab, workspace, tmp_path):
    key = workspace / "repository/keys/root.pem"
    away = tmp_path / "root.pem"
    key.rename(away)
    done = trimtab("repo", "rotate", "timestamp")
    assert "waiting: " in done.stdout
    assert "1 more needed of: root" in done.stdout
    status = trimtab("repo", "status").stdout
    assert "staged: root version 2; signed by nobody; not by root" in status
    assert "timestamp: + timestamp-2 (" in status
    assert "timestamp: - timestamp (" in status
    assert trimtab("repo", "status", "--json").json["staged"][0]["missing"] == ["root"]
    away.rename(key)
    assert trimtab("repo", "sign").stdout.startswith("in force: 2.root.json, 2.snapshot.json")
    assert trimtab("repo", "sign").stdout == "nothing is staged\n"
    assert "not used: " in trimtab("repo", "status").stdout


def test_rotation_in_json(trimtab, workspace):
    assert trimtab("repo", "rotate", "assignment", "--revoke", "--json").json == {
        "in_force": ["2.targets.json", "2.snapshot.json", "timestamp.json"],
        "waiting": [],
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--key-uri", "hsm:2"], "--key-uri: say --add NAME or --replace NAME too"),
        (["--add", "x", "--key-uri", "hsm:2", "--public-key", "/nowhere"], "--public-key /nowhere"),
        (["--remove", "nobody"], "'root' has no key 'nobody'"),
    ],
)
def test_a_rotation_that_cannot_be_says_why(arguments, message, trimtab, workspace):
    done = trimtab("repo", "rotate", "root", *arguments)
    assert done.returncode == CALLER
    assert message in done.stderr


def test_expire_soon_ends_with_3_for_cron(trimtab, workspace):
    assert trimtab("repo", "expire-soon").returncode == 0
    done = trimtab("repo", "expire-soon", "--days", 10)
    assert done.returncode == EXPIRES_SOON
    assert "soon" in done.stdout
    done = trimtab("repo", "expire-soon", "--days", 40, "--json")
    assert done.json["soon"] == ["snapshot", "timestamp"]
    assert done.json["expires"].keys() == {"root", "targets", "snapshot", "timestamp"}


def test_counters_skip_ahead(trimtab, workspace):
    assert trimtab("repo", "skip-counters", "--by", 50, "--json").json == {"counter": 50}
    assert "highest assignment counter: 50" in trimtab("repo", "status").stdout


def test_a_release_that_waits_is_an_error_that_says_what_to_do(workspace):
    from trimtab.errors import StagedError

    (workspace / "repository/keys/targets.pem").unlink()
    with pytest.raises(StagedError, match=r"staged, not released yet; .* run: trimtab repo sign"):
        Workspace.open(workspace).repository().add_target("demo-1.json", b"one")


@pytest.mark.slow
def test_a_person_at_a_terminal_types_the_passphrase_twice_then_once(tmp_path):
    assert b"encrypted; keep them offline" in at_a_terminal(
        ["init", tmp_path / "w"], ["pass one", "pass one"]
    )
    output = at_a_terminal(["repo", "refresh", "root", "-w", tmp_path / "w"], ["pass one"])
    assert b"in force: 2.root.json" in output
    assert b"pass one" not in output
    assert b"wrong passphrase for" in at_a_terminal(
        ["repo", "refresh", "root", "-w", tmp_path / "w"], ["pass two"]
    )


def at_a_terminal(arguments: list[object], answers: list[str]) -> bytes:
    """Runs the command on a terminal of its own and answers each question as it comes."""
    command = [sys.executable, "-m", "trimtab", *map(str, arguments)]
    spawn = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)"
    output = b""
    with subprocess.Popen(
        [sys.executable, "-c", spawn, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={key: value for key, value in os.environ.items() if not key.startswith("TRIMTAB_")},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for answer in answers:
            while not output.rstrip().endswith(b":"):
                piece = os.read(process.stdout.fileno(), 1000)
                assert piece, output
                output += piece
            time.sleep(0.2)  # The question is shown just before what was typed is thrown away.
            process.stdin.write(answer.encode() + b"\n")
            process.stdin.flush()
            output += b"\n"
        return output + process.stdout.read()
