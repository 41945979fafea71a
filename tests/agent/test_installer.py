"""Versions that a child process assembles; and that the agent itself loads no heavy library."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import textwrap
import threading
import time

import msgspec
import psutil
import pytest

from support.manifests import SmallPackage, cut, small_package
from support.tuf_simulator import TufSimulator
from trimtab_agent.contract import codec, layout
from trimtab_agent.contract.messages import Assignment
from trimtab_agent.durable import held, wait_until_let_go
from trimtab_agent.errors import HelperProcessError, IntegrityError
from trimtab_agent.installer import assemble_in_child
from trimtab_agent.store import Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "packages", assemble=assemble_in_child)


def fill_cache(store, package) -> None:
    for file in package.manifest.files:
        for chunk in file.chunks:
            store.chunks.put(chunk, package.wire[chunk.sha256])


def test_a_child_installs_what_this_process_would(store, tmp_path):
    model = random.Random(1).randbytes(300_000)
    package = small_package("1", model=model)
    fill_cache(store, package)
    version = store.install(package.manifest_bytes)
    assert version.model.read_bytes() == model
    here = Store(tmp_path / "here")
    fill_cache(here, package)
    other = here.install(package.manifest_bytes)

    def tree(path):
        return {p.relative_to(path): p.stat().st_mode for p in sorted(path.rglob("*"))}

    assert tree(version.path) == tree(other.path)
    assert list((tmp_path / "packages" / "staging").iterdir()) == []
    assert psutil.Process().children() == []


def test_what_the_child_meets_is_raised_here_and_nothing_is_left(store, tmp_path):
    package = small_package("1")
    with pytest.raises(IntegrityError, match="is not on this device"):
        store.install(package.manifest_bytes)
    assert list((tmp_path / "packages" / "staging").iterdir()) == []
    assert list((tmp_path / "packages" / "versions").iterdir()) == []


@pytest.fixture
def child(tmp_path, monkeypatch):
    """Returns a store whose installer runs a script instead."""

    def write(script: str) -> Store:
        (tmp_path / "fake_child.py").write_text(textwrap.dedent(script))
        paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        monkeypatch.setenv("PYTHONPATH", paths)
        return Store(
            tmp_path / "packages",
            assemble=lambda order: assemble_in_child(order, module="fake_child", silence_s=2.0),
        )

    return write


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("import os; os.kill(os.getpid(), 11)", "the installer: the process was killed by SIGSEGV"),
        ("raise MemoryError", "the installer: the process failed with exit code 1: MemoryError"),
        ("import os; os.write(1, b'R' + bytes(4))", "the installer sent a frame b'R'"),
    ],
)
def test_a_child_that_dies_leaves_nothing(child, tmp_path, script, message):
    store = child(script)
    package = small_package("1")
    fill_cache(store, package)
    with pytest.raises(HelperProcessError, match=message):
        store.install(package.manifest_bytes)
    assert list((tmp_path / "packages" / "staging").iterdir()) == []
    assert list((tmp_path / "packages" / "versions").iterdir()) == []


def test_the_next_agent_waits_for_the_child_of_a_killed_one(tmp_path):
    """Who inherited the hold keeps it, even when the process that took it has ended."""
    staging = tmp_path / "staging"
    staging.mkdir()
    with held(staging) as descriptor:
        orphan = subprocess.Popen(["sleep", "0.2"], pass_fds=[descriptor])
    start = time.monotonic()
    wait_until_let_go(staging)
    assert time.monotonic() - start > 0.1
    assert orphan.wait(5) == 0
    with held(staging), held(staging):  # any number at a time
        pass
    wait_until_let_go(staging)


UPDATE = """
    import sys
    from datetime import datetime, timezone
    from pathlib import Path

    import trimtab_agent.service  # and with it every part of the agent
    from trimtab_agent.adapters import PackageSource
    from trimtab_agent.contract.manifest import parse_manifest
    from trimtab_agent.folder_source import Folder
    from trimtab_agent.installer import assemble_in_child
    from trimtab_agent.store import Store
    from trimtab_agent.verifier import Verifier

    here = Path(sys.argv[1])
    folder = Folder(here / "stick")
    trust = Verifier(here / "trust", (here / "root.json").read_bytes())
    store = Store(here / "packages", assemble=assemble_in_child)
    source = PackageSource(folder, lambda group: {"folder": folder}, trust, device="dev-1")
    now = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)
    assignment = source.verify_assignment(folder.assignment("dev-1"), now=now)
    data = source.manifest(assignment.target)
    source.pull(store.cheapest(parse_manifest(data)), store.chunks)
    store.switch(store.install(data))
    heavy = {"tuf", "securesystemslib", "cryptography", "numpy", "zstandard", "asyncio"}
    print(store.current.manifest.target_name, sorted(heavy & set(sys.modules)))
"""


def test_the_agent_itself_never_loads_a_heavy_library(tmp_path):
    """From an assignment to an installed version, with the real children."""
    simulator = TufSimulator()
    package = small_package("1")
    simulator.release("model-1.json", package.manifest_bytes)
    assignment = Assignment(
        device="dev-1",
        counter=1,
        target="model-1.json",
        issued="2026-11-22T11:00:00Z",
        expires="2026-12-22T11:00:00Z",
    )
    write_stick(tmp_path / "stick", simulator, package, simulator.assign(assignment))
    (tmp_path / "root.json").write_bytes(simulator.roots[0])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(UPDATE), tmp_path],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout == "model-1.json []\n", done.stderr


def write_stick(root, simulator, package, signed: bytes) -> None:
    """Writes what a simulator has published as a folder source."""

    def write(path: str, data: bytes) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)

    for name, data in simulator.documents().items():
        write(layout.document(name), data)
    for sha256, wire in package.wire.items():
        write(layout.blob(sha256), wire)
    write(layout.ROOT_VERSION, str(simulator.root.version).encode())
    write(layout.assignment("dev-1"), signed)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_child_needs_memory_for_slices_not_for_the_file(tmp_path):
    """64 MB more of a file cost the child next to nothing."""
    peaks = []
    for size in (1 << 20, 64 << 20):
        store = Store(tmp_path / str(size), assemble=peak_of(peaks))
        package = package_of(size)
        fill_cache(store, package)
        store.install(package.manifest_bytes)
    assert peaks[0] > 0
    assert peaks[1] - peaks[0] < 4 << 20


def package_of(size_bytes: int) -> SmallPackage:
    """Returns a package of one model in chunks of the usual size."""
    package = small_package("1")
    path = package.manifest.runtime.model
    model, wire = cut(path, random.Random(1).randbytes(size_bytes), chunk_bytes=96 << 10)
    files = [model if file.path == path else file for file in package.manifest.files]
    manifest = msgspec.structs.replace(package.manifest, files=tuple(files))
    return SmallPackage(manifest, codec.encode(manifest), {**package.wire, **wire})


def peak_of(peaks: list[int]):
    """Returns what assembles in a child of its own and notes the child's peak, in bytes."""

    def assemble(order) -> None:
        peak = 0

        def watch() -> None:
            nonlocal peak
            while not done.is_set():
                for child in psutil.Process().children():
                    with contextlib.suppress(psutil.Error):
                        # Before its exec a child counts as large as this process.
                        if "trimtab_agent.installer_child" in child.cmdline():
                            peak = max(peak, child.memory_info().rss)
                time.sleep(0.005)

        done = threading.Event()
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            assemble_in_child(order)
        finally:
            done.set()
            watcher.join()
        peaks.append(peak)

    return assemble
