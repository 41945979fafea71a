"""Power cuts: whatever an install's unsynced writes leave on the disk, the agent recovers.

`scripts/lost-writes` tries every image; here is a sample.
"""

from __future__ import annotations

import os
import shutil
import sys

import pytest

from support.crash_images import images
from support.crash_power import MODEL_BYTES, Tally, memory_disk, run
from support.crash_trace import (
    ROOT,
    Create,
    Log,
    Remove,
    Rename,
    Say,
    Sync,
    Tree,
    Truncate,
    UnknownCallError,
    Write,
    trace,
)
from support.crash_world import make_world

needs_strace = pytest.mark.skipif(
    shutil.which("strace") is None and "TRIMTAB_NO_SKIP" not in os.environ,
    reason="strace is not installed",
)


@pytest.fixture
def scratch(tmp_path_factory):
    """A directory in memory if there is one."""
    if memory_disk() is None:
        yield tmp_path_factory.mktemp("cuts")
        return
    directory = memory_disk() / f"trimtab-test-{os.getpid()}"
    directory.mkdir()
    yield directory
    shutil.rmtree(directory)


@pytest.mark.slow
@needs_strace
@pytest.mark.timeout(400)
def test_an_install_survives_power_cuts(scratch):
    tally = Tally(seed=1)
    world = make_world(scratch, model_bytes=MODEL_BYTES)
    for _ in run(world, scratch, tally=tally, rounds=1, sample=120):
        pass
    assert tally.images.total() == 360
    assert set(tally.left) == {"none", "old", "new"}
    assert tally.torn > 0


def written(*operations):
    """A log of these operations on an empty disk."""
    log = Log.__new__(Log)
    log.before = Tree()
    log.operations = list(operations)
    return log


def contents(image):
    """The files of an image: bytes by path."""
    found = {}

    def walk(inode, path):
        for name, number in image.tree.inodes[inode].names.items():
            child = image.tree.inodes[number]
            if child.kind == "directory":
                walk(number, f"{path}{name}/")
            else:
                found[path + name] = bytes(child.data)

    walk(ROOT, "")
    return found


def outcomes(log, model=""):
    """Every disk that the rules make of the whole log."""
    last = len(log.operations)
    return [
        contents(image)
        for image in images(log, seed=1, rounds=20)
        if image.cut == last and image.model.startswith(model)
    ]


CREATED = (Create(ROOT, "new", 1, "file"), Write(1, 0, b"content"))
REPLACED = (*CREATED, Rename(ROOT, "new", ROOT, "name", 1))


def test_a_file_that_was_not_synced_may_be_empty_under_its_final_name():
    found = outcomes(written(*REPLACED, Say("cut")), "ordered")
    assert {"name": b""} in found
    assert {"name": b"\0" * 7} in found
    assert {} in found


def test_a_file_that_was_synced_before_its_rename_is_whole_wherever_it_is():
    log = written(*CREATED, Sync(1), REPLACED[-1], Say("cut"))
    found = outcomes(log)
    assert {"name": b"content"} in found
    assert all(content == b"content" for files in found for content in files.values())


def test_syncing_a_file_brings_no_name_by_posix_but_does_on_ext4():
    log = written(*CREATED, Sync(1), Say("cut"))
    assert {} in outcomes(log, "weak")
    assert outcomes(log, "ordered") == []  # the same disk as with everything there
    assert outcomes(log, "prefix") == [{"new": b"content"}]


def test_after_the_directory_is_synced_the_name_stays():
    log = written(*CREATED, Sync(1), REPLACED[-1], Sync(ROOT), Say("cut"))
    assert outcomes(log) == [{"name": b"content"}]


def test_names_in_different_directories_may_come_in_any_order_by_posix():
    log = written(
        Create(ROOT, "a", 1, "directory"),
        Create(ROOT, "b", 2, "directory"),
        Sync(ROOT),
        Create(1, "x", 3, "file"),
        Create(2, "y", 4, "file"),
        Say("cut"),
    )
    assert {"b/y": b""} in outcomes(log, "weak")
    assert {"b/y": b""} not in outcomes(log, "ordered")


def test_a_later_name_needs_the_earlier_ones():
    log = written(*CREATED, Remove(ROOT, "new"), Create(ROOT, "new", 2, "file"), Say("cut"))
    assert {tuple(files) for files in outcomes(log, "weak")} <= {(), ("new",)}


def test_writes_are_torn_at_sectors():
    log = written(
        Create(ROOT, "f", 1, "file"),
        Write(1, 0, b"a" * 2048),
        Sync(1),
        Sync(ROOT),
        Write(1, 100, b"b" * 1500),
        Say("cut"),
    )
    sectors = {
        tuple(files["f"][start] for start in (100, 512, 1024, 1599)) for files in outcomes(log)
    }
    assert len(sectors) > 4
    assert all(len(files["f"]) == 2048 for files in outcomes(log))


def test_a_shortened_file_may_be_long_still():
    log = written(*CREATED, Sync(1), Sync(ROOT), Truncate(1, 0), Say("cut"))
    assert {len(files["new"]) for files in outcomes(log)} == {0, 7}


SCRIPT = """
import os, sys
root = sys.argv[1]
os.mkdir(root + "/d")
with open(root + "/d/f", "xb") as file:
    file.write(b"one"); file.flush(); os.fsync(file.fileno()); file.write(b"two")
os.rename(root + "/d/f", root + "/f")
os.symlink("f", root + "/link")
directory = os.open(root, os.O_DIRECTORY)
os.fsync(directory)
descriptor = os.open(root + "/f", os.O_WRONLY | os.O_APPEND)
os.writev(descriptor, [b"three", b"four"])
os.ftruncate(descriptor, 10)
os.rmdir(root + "/d")
print("reached the end")
"""


@pytest.mark.slow
@needs_strace
def test_a_trace_has_what_was_written_in_order(tmp_path):
    log = trace([sys.executable, "-c", SCRIPT, tmp_path], tmp_path, environment=os.environ)
    assert log.operations == [
        Create(ROOT, "d", 1, "directory"),
        Create(1, "f", 2, "file"),
        Write(2, 0, b"one"),
        Sync(2),
        Write(2, 3, b"two"),
        Rename(1, "f", ROOT, "f", 2),
        Create(ROOT, "link", 3, "symlink", "f"),
        Sync(ROOT),
        Write(2, 6, b"threefour"),
        Truncate(2, 10),
        Remove(ROOT, "d"),
        Say("reached the end"),
    ]
    log._now.write_to(tmp_path / "copy")
    assert (tmp_path / "copy" / "link").read_bytes() == b"onetwothre"


@pytest.mark.slow
@needs_strace
def test_a_call_that_is_not_modelled_is_an_error(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    command = [sys.executable, "-c", "import os, sys; os.link(*sys.argv[1:])"]
    with pytest.raises(UnknownCallError, match="link"):
        trace([*command, tmp_path / "a", tmp_path / "b"], tmp_path, environment=dict(os.environ))
