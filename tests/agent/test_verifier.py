"""The verifier's child process for real, and children that end in every bad way."""

from __future__ import annotations

import os
import resource
import sys
import textwrap
import time
from datetime import datetime, timezone

import psutil
import pytest

from support.tuf_simulator import TufSimulator
from trimtab_agent.contract.layout import MAX_DOCUMENT_BYTES
from trimtab_agent.contract.messages import ASSIGNMENT_CONTEXT, Assignment
from trimtab_agent.errors import (
    HelperProcessError,
    IntegrityError,
    TransferTimeoutError,
    TrustError,
)
from trimtab_agent.fetcher import MqttDocuments
from trimtab_agent.helper_process import Helper
from trimtab_agent.verifier import MAX_READS, Verifier

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)


@pytest.fixture
def simulator():
    return TufSimulator()


@pytest.fixture
def documents(simulator):
    return MqttDocuments(simulator.broker, timeout_s=0.05)


@pytest.fixture(autouse=True)
def nothing_is_left():
    """No process and no descriptor outlives a question, however it went."""
    own = psutil.Process()
    before = own.num_fds()
    yield
    assert own.children() == []
    assert own.num_fds() == before


def test_a_target_and_a_message_are_verified(simulator, documents, tmp_path):
    content = bytes(range(256)) * 20  # six parts
    simulator.release("model-1.json", content)
    verifier = Verifier(tmp_path / "trust", simulator.roots[0])
    assert verifier.target(documents, "model-1.json") == content
    assignment = Assignment(
        device="dev-1",
        counter=7,
        target="model-1.json",
        issued="2026-11-22T11:00:00Z",
        expires="2026-12-22T11:00:00Z",
    )
    signed = simulator.assign(assignment)
    arguments = {"what": "the assignment", "device": "dev-1", "now": NOW}
    payload = verifier.payload(documents, signed, context=ASSIGNMENT_CONTEXT, **arguments)
    assert b'"counter":7' in payload
    with pytest.raises(TrustError, match="the assignment has no good signature"):
        verifier.payload(documents, signed, context=b"trimtab command v1\n", **arguments)
    assert simulator.broker.open == set()


@pytest.mark.slow
def test_what_the_source_raises_comes_through(simulator, documents, tmp_path):
    simulator.broker.retained.clear()
    verifier = Verifier(tmp_path / "trust", simulator.roots[0])
    with pytest.raises(TransferTimeoutError, match="root-version"):
        verifier.target(documents, "model-1.json")
    assert simulator.broker.open == set()


@pytest.fixture
def child(tmp_path, monkeypatch):
    """Returns a verifier whose child runs a script instead."""

    def write(script: str, *, silence_s: float = 20.0) -> Verifier:
        (tmp_path / "fake_child.py").write_text(textwrap.dedent(script))
        paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        monkeypatch.setenv("PYTHONPATH", paths)
        return Verifier(tmp_path / "trust", b"", module="fake_child", silence_s=silence_s)

    return write


SERVE = """
    import sys
    from trimtab_agent import frames
    from trimtab_agent.helper_child import serve

    def answer(connection, question):
        {work}
        return b"done"

    sys.exit(serve(answer))
"""


def serving(work: str) -> str:
    return textwrap.dedent(SERVE).format(
        work=textwrap.indent(textwrap.dedent(work), " " * 4).strip()
    )


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("import os; os.kill(os.getpid(), 9)", "the verifier: the process was killed by SIGKILL"),
        ("raise MemoryError('no room')", "failed with exit code 1: MemoryError: no room"),
        ("import nothing_of_that_name", "exit code 1: ModuleNotFoundError"),
        ("pass", "the verifier: the process failed with exit code 0"),
        ("import os; os.write(1, b'hello world')", "said what cannot be read"),
        ("import os; os.write(1, b'A' + bytes([255] * 4))", "said what cannot be read"),
        ("import os; os.write(1, b'A' + bytes([0, 0, 0, 9]) + b'half')", "exit code 0"),
        ("import os; os.write(1, b'F' + bytes([0, 0, 0, 1]) + b'{')", "its fault cannot be read"),
        ("import os; os.write(1, b'P' + bytes(4))", "a frame b'P' of 0 bytes, which nobody"),
    ],
)
def test_children_that_end_badly(child, documents, script, message):
    with pytest.raises(HelperProcessError, match=message):
        child(script).target(documents, "model-1.json")


def test_a_child_that_hangs_is_ended(child, documents):
    start = time.monotonic()
    with pytest.raises(HelperProcessError, match=r"it said nothing for 0\.3 s"):
        child("import time; time.sleep(60)", silence_s=0.3).target(documents, "model-1.json")
    assert time.monotonic() - start < 10


@pytest.mark.slow
def test_a_child_that_does_not_listen_is_ended(child, simulator):
    class Large:
        def read(self, name):
            yield bytes(1 << 20)

    work = """
    frames.send(connection, frames.READ, b"x")
    import time
    time.sleep(60)
    """
    with pytest.raises(HelperProcessError, match="it said nothing for 3 s"):
        child(serving(work), silence_s=3.0).target(Large(), "model-1.json")


@pytest.mark.slow
def test_a_slow_source_is_no_silence_of_the_child(child):
    class Slow:
        def read(self, name):
            time.sleep(4)
            yield b"late"

    work = """
    frames.send(connection, frames.READ, b"x")
    assert frames.receive(connection) == (frames.PIECE, b"late")
    """
    assert child(serving(work), silence_s=3.0).target(Slow(), "any") == b"done"


class Counting:
    """Documents without an end; counts the pieces that were read."""

    def __init__(self, piece: bytes):
        self.piece, self.pieces, self.closed = piece, 0, 0

    def read(self, name):
        try:
            while True:
                self.pieces += 1
                yield self.piece
        finally:
            self.closed += 1


def test_no_child_can_have_the_agent_read_without_end(child):
    source = Counting(bytes(1 << 20))
    work = """
    frames.send(connection, frames.READ, b"x")
    while True:
        frames.receive(connection)
        frames.send(connection, frames.MORE)
    """
    with pytest.raises(IntegrityError, match=f"has more than {MAX_DOCUMENT_BYTES} bytes"):
        child(serving(work)).target(source, "any")
    assert source.pieces == MAX_DOCUMENT_BYTES // (1 << 20) + 1
    assert source.closed == 1


def test_no_child_can_have_the_agent_ask_without_end(child):
    source = Counting(b"x")
    work = """
    while True:
        frames.send(connection, frames.READ, b"x")
        frames.receive(connection)
    """
    with pytest.raises(HelperProcessError, match=f"more than {MAX_READS} documents"):
        child(serving(work)).target(source, "any")
    assert source.closed == MAX_READS


def test_an_interrupt_ends_the_child(child):
    class Interrupted:
        def read(self, name):
            raise KeyboardInterrupt
            yield

    with pytest.raises(KeyboardInterrupt):
        child(serving('frames.send(connection, frames.READ, b"x")')).target(Interrupted(), "any")


def test_a_child_that_cannot_be_started():
    helper = Helper("any", what="the verifier", command=["/nowhere/python"])
    with pytest.raises(HelperProcessError, match="the verifier cannot be started"), helper:
        pass


def test_no_descriptors_left_for_a_child():
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (psutil.Process().num_fds() + 1, limits[1]))
    try:
        with pytest.raises(HelperProcessError, match=r"cannot be started: .*Too many open files"):
            Helper("any", what="the verifier").__enter__()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_child_ends_with_its_parent(tmp_path):
    """Also one that is busy and would not look at its connection for a long time."""
    (tmp_path / "busy.py").write_text(serving("import time; time.sleep(60)"))
    parent = tmp_path / "parent.py"
    parent.write_text(
        "import os, sys, time\n"
        "from trimtab_agent import frames\n"
        "from trimtab_agent.helper_process import Helper\n"
        "with Helper('busy', what='it') as helper:\n"
        "    helper.send(frames.QUESTION)\n"
        "    print(helper._process.pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    import subprocess

    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    process = subprocess.Popen([sys.executable, parent], stdout=subprocess.PIPE, env=environment)
    with process:
        child = psutil.Process(int(process.stdout.readline()))
        time.sleep(0.3)  # until it is asleep
        process.kill()
    deadline = time.monotonic() + 5
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)
