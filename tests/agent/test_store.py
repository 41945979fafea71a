"""The store: versions, switch, rollback, and what a kill or a full disk leaves."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from support.chunk_packs import damage, packed
from support.manifests import small_package
from trimtab_agent.contract import codec
from trimtab_agent.contract.chunks import MAX_CHUNK_BYTES
from trimtab_agent.contract.manifest import Chunk, PackageFile
from trimtab_agent.decode import decode_file
from trimtab_agent.durable import sole_user, storage_errors
from trimtab_agent.errors import CallerError, FormatError, IntegrityError, StorageError
from trimtab_agent.store import RESERVE_BYTES, Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "packages")


def load(store, package):
    chunks = {c.sha256: c for file in package.manifest.files for c in file.chunks}
    for sha256, wire in package.wire.items():
        store.chunks.put(chunks[sha256], wire)


def install(store, package):
    load(store, package)
    return store.install(package.manifest_bytes)


def activate(store, package):
    version = install(store, package)
    store.switch(version)
    store.commit()
    return version


def litter(root):
    """Files that belong to no version and are no chunk."""
    return list((root / "staging").iterdir())


def test_a_version_is_whole_and_read_only(store):
    content = os.urandom(20_000)
    package = small_package(model=content)
    version = install(store, package)
    assert version.model.read_bytes() == content
    digest = hashlib.sha256(version.model.read_bytes()).hexdigest()
    assert digest == package.manifest.files[0].sha256
    assert version.golden.read_bytes() == b"golden"
    assert (version.path / "manifest.json").read_bytes() == package.manifest_bytes
    assert version.path.stat().st_mode & 0o777 == 0o755
    assert version.model.stat().st_mode & 0o222 == 0
    assert store.current is None


def sha256_of(version):
    return version.sha256 if version else None


def versions_at(store):
    return tuple(map(sha256_of, (store.current, store.committed, store.previous)))


def test_switch_and_commit(store):
    one, two, three = (small_package(n, model=n.encode() * 5000) for n in "123")
    activate(store, one)
    second = activate(store, two)
    assert versions_at(store) == (two.sha256, None, one.sha256)
    store.switch(second)  # again: the way back stays
    store.commit()
    assert versions_at(store) == (two.sha256, None, one.sha256)
    store.switch(install(store, three))
    assert versions_at(store) == (three.sha256, two.sha256, one.sha256)
    for _ in range(2):  # a kill may come between
        store.commit()
        assert versions_at(store) == (three.sha256, None, two.sha256)


def test_a_rollback_from_a_trial_keeps_the_version_before(store):
    one, two, three = (small_package(n, model=n.encode() * 5000) for n in "123")
    for package in (one, two):
        activate(store, package)
    store.switch(install(store, three))
    for _ in range(2):
        store.rollback(three.sha256)
        assert versions_at(store) == (two.sha256, None, one.sha256)
    store.rollback(two.sha256)
    assert versions_at(store) == (one.sha256, None, None)


def test_a_trial_and_both_versions_before_it_are_kept(store, tmp_path):
    packages = [small_package(n, model=n.encode() * 5000) for n in "123"]
    for package in packages[:2]:
        activate(store, package)
    store.switch(install(store, packages[2]))
    store.collect_garbage()
    root = tmp_path / "packages"
    assert {path.name for path in (root / "versions").iterdir()} == {p.sha256 for p in packages}


def test_rolling_back_the_first_version_leaves_none(store):
    version = activate(store, small_package())
    store.rollback(version.sha256)
    assert store.current is None


def test_a_version_that_failed_twice_is_no_way_back(store):
    first, second = (small_package(n) for n in "12")
    one = activate(store, first)
    store.rollback(activate(store, second).sha256)
    store.rollback(one.sha256)
    assert store.current is None
    assert store.previous is None


def test_the_links_are_relative_so_that_the_tree_can_be_moved(store, tmp_path):
    package = small_package()
    activate(store, package)
    (tmp_path / "packages").rename(tmp_path / "elsewhere")
    assert Store(tmp_path / "elsewhere").current.sha256 == package.sha256


def test_garbage_is_collected_but_current_and_previous_stay(store, tmp_path):
    packages = [small_package(str(n), model=os.urandom(9000)) for n in range(3)]
    for package in packages:
        activate(store, package)
    (tmp_path / "packages" / "staging" / "half").write_bytes(b"x")
    store.collect_garbage()
    root = tmp_path / "packages"
    assert {p.name for p in (root / "versions").iterdir()} == {p.sha256 for p in packages[1:]}
    kept = set(packed(root / "chunks"))
    assert kept == set(packages[1].wire) | set(packages[2].wire)
    assert litter(root) == []


def test_what_was_compiled_goes_with_its_version(store, tmp_path):
    old, new, newest = (activate(store, small_package(str(n))) for n in range(3))
    root = tmp_path / "packages"
    for version in (old, new, newest):
        assert not version.compiled.exists()
        (version.compiled / "onnxruntime-1").mkdir(parents=True)
        (version.compiled / "onnxruntime-1" / "model.engine").write_bytes(b"x")
    store.collect_garbage()
    assert {path.name for path in (root / "compiled").iterdir()} == {new.sha256, newest.sha256}
    assert sorted(path.name for path in newest.path.iterdir()) == [
        "golden.npz", "manifest.json", "model",
    ]  # fmt: skip


def test_a_disk_that_refuses_while_staging_is_cleared_leaves_a_store_that_works(
    store, tmp_path, monkeypatch
):
    (tmp_path / "packages" / "staging" / "half").write_bytes(b"x")

    def refuse(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "mkdir", refuse)
    store.clear_staging()
    monkeypatch.undo()
    store.clear_staging()
    assert (tmp_path / "packages" / "staging").is_dir()


def test_clearing_staging_keeps_the_chunks_of_a_transfer(store, tmp_path):
    package = small_package()
    load(store, package)
    (tmp_path / "packages" / "staging" / "half").write_bytes(b"x")
    store.clear_staging()
    assert litter(tmp_path / "packages") == []
    assert packed(tmp_path / "packages" / "chunks") == package.wire


def test_a_chunk_damaged_on_the_disk_is_not_there(store, tmp_path):
    package = small_package()
    load(store, package)
    chunk = package.manifest.files[0].chunks[0]
    damage(tmp_path / "packages" / "chunks", chunk.sha256)
    assert not Store(tmp_path / "packages").chunks.has(chunk)


def damaged(package, **changes):
    """Returns manifest bytes whose first file is changed."""
    first = msgspec.structs.replace(package.manifest.files[0], **changes)
    files = (first, *package.manifest.files[1:])
    return codec.encode(msgspec.structs.replace(package.manifest, files=files))


def test_a_missing_chunk_is_named(store):
    package = small_package()
    with pytest.raises(IntegrityError, match=r"model/weights.bin: chunk \w{12} is not on this"):
        store.install(package.manifest_bytes)


def test_a_file_with_another_hash_is_refused_and_leaves_nothing(store, tmp_path):
    package = small_package()
    load(store, package)
    with pytest.raises(IntegrityError, match=r"'model/weights\.bin' has the SHA-256 .* says 0000"):
        store.install(damaged(package, sha256="0" * 64))
    assert litter(tmp_path / "packages") == []
    assert list((tmp_path / "packages" / "versions").iterdir()) == []


def test_a_path_that_leaves_the_package_is_refused(store):
    package = small_package()
    with pytest.raises(FormatError, match="leaves the package"):
        store.install(damaged(package, path="../../evil"))


def test_a_chunk_that_claims_too_much_is_refused():
    huge = Chunk(sha256="0" * 64, wire_bytes=MAX_CHUNK_BYTES + 1)
    file = PackageFile(path="m", size_bytes=1, sha256="0" * 64, chunks=(huge,))
    with pytest.raises(IntegrityError, match="claims 4194305 bytes; at most 4194304"):
        list(decode_file(file, lambda _: b""))


def test_room_is_checked_before_anything_is_fetched(tmp_path):
    package = small_package()
    needed = sum(map(len, package.wire.values())) + 25_000 + 6 + RESERVE_BYTES
    Store(tmp_path, free=lambda _: needed).check_room(package.manifest)
    with pytest.raises(
        StorageError, match=rf"model 1 needs {needed} bytes .* {needed - 1} are free: free 1 more"
    ):
        Store(tmp_path, free=lambda _: needed - 1).check_room(package.manifest)


def test_chunks_that_are_here_need_no_room(tmp_path):
    package = small_package()
    needed = 25_000 + 6 + RESERVE_BYTES
    store = Store(tmp_path, free=lambda _: needed)
    load(store, package)
    store.check_room(package.manifest)


@pytest.fixture
def tiny_disk(tmp_path):
    """A real file system of one mebibyte."""
    mount = tmp_path / "disk"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"mounting a small disk needs root: {done.stderr.decode().strip()}")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_a_disk_that_fills_up_loses_nothing(tiny_disk):
    store = Store(tiny_disk / "packages")
    small = small_package("1", model=os.urandom(50_000))
    activate(store, small)
    big = small_package("2", model=os.urandom(700_000))
    with pytest.raises(StorageError, match=r"(?s)failed: No space left on device; free some room"):
        install(store, big)
    assert litter(tiny_disk / "packages") == []
    assert store.current.sha256 == small.sha256
    store.collect_garbage()
    activate(store, small_package("3", model=os.urandom(50_000)))


def test_a_full_quota_is_named_as_a_full_disk():
    with (
        pytest.raises(StorageError, match="writing x failed: Disk quota exceeded; free some room"),
        storage_errors("writing x"),
    ):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


def test_a_state_directory_has_one_agent(tmp_path):
    with sole_user(tmp_path), pytest.raises(CallerError, match="in use by another trimtab-agent"):  # noqa: SIM117
        with sole_user(tmp_path):
            pass
    with sole_user(tmp_path):
        pass


def test_a_kill_at_any_moment_leaves_the_old_or_the_new_whole(tmp_path):
    """A child installs and switches between two versions for ever; it is killed 25 times."""
    root = tmp_path / "packages"
    packages = [small_package(str(n), model=random.Random(n).randbytes(400_000)) for n in (1, 2)]
    store = Store(root)
    begin = time.monotonic()
    activate(store, packages[0])
    turn_s = time.monotonic() - begin
    chance = random.Random(20261122)
    seen = set()
    for _ in range(25):
        child = subprocess.Popen(
            [sys.executable, Path(__file__).parents[1] / "support" / "endless_install.py", root],
            stdout=subprocess.PIPE,
        )
        child.stdout.read(1)  # it has begun
        time.sleep(chance.uniform(0, 3 * turn_s))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        store = Store(root)
        store.collect_garbage()
        current = store.current
        seen.add(current.manifest.version)
        kept = [version for version in (current, store.committed, store.previous) if version]
        for version in kept:
            for file in version.manifest.files:
                content = (version.path / file.path).read_bytes()
                assert hashlib.sha256(content).hexdigest() == file.sha256
        assert litter(root) == []
        names = {path.name for path in (root / "versions").iterdir()}
        assert names == {version.sha256 for version in kept}
    assert seen == {"1", "2"}
