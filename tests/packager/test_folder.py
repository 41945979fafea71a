"""A release written as a folder, and read by a device from the folder and over HTTP."""

from __future__ import annotations

import contextlib
import stat

import pytest

from support.http_servers import static_server
from support.packages import make_package, model_bytes
from trimtab.fleet.folder import FolderResult, write_folder
from trimtab.fleet.publish import sign_assignment
from trimtab.fleet.shelf import Shelf
from trimtab.package.read import open_package
from trimtab.package.sign import Repository
from trimtab_agent.contract import layout
from trimtab_agent.contract.chunks import all_chunks, distinct_chunks
from trimtab_agent.decode import decode_file
from trimtab_agent.errors import StorageError
from trimtab_agent.folder_source import Folder
from trimtab_agent.http_source import HttpSource
from trimtab_agent.trust import TrustStore


@pytest.fixture
def repository(tmp_path):
    return Repository.init(tmp_path / "repo")


@pytest.fixture
def package(tmp_path):
    return open_package(make_package(tmp_path))


def never() -> bool:
    return False


@pytest.mark.parametrize("kind", ["folder", "http"])
def test_a_device_installs_from_what_was_written(kind, tmp_path, repository, package):
    shelf = Shelf("sqlite://")
    repository.add_target("demo-1.json", package.manifest_bytes)
    assignment, message = sign_assignment(repository, "dev-1", "demo-1.json", shelf=shelf)
    assert [kept.message for kept in shelf.assignments()] == [message]
    shelf.close()
    write_folder(tmp_path / "usb", repository, package, {"dev-1": message})
    with contextlib.ExitStack() as opened:
        source = Folder(tmp_path / "usb")
        if kind == "http":
            url, _ = opened.enter_context(static_server(tmp_path / "usb"))
            source = opened.enter_context(contextlib.closing(HttpSource(url)))
        assert source.assignment("dev-1") == message
        trust = TrustStore(tmp_path / "device", repository.root)
        assert trust.target(source, assignment.target) == package.manifest_bytes
        files = package.manifest.files
        wires = dict(source.fetch(distinct_chunks(files), stop=never))
        data = decode_file(package.manifest.file("model.tflite"), lambda chunk: wires[chunk])
        assert b"".join(data) == model_bytes()


def test_everything_can_be_read_by_another_user_and_nothing_is_left_over(
    tmp_path, repository, package
):
    write_folder(tmp_path / "usb", repository, package, {"dev-1": b"signed"})
    files = [path for path in (tmp_path / "usb").rglob("*") if path.is_file()]
    assert all(path.stat().st_mode & stat.S_IROTH for path in files)
    assert {path.relative_to(tmp_path / "usb").parts[0] for path in files} == {
        "blob",
        "doc",
        "device",
        "root-version",
    }
    assert not list((tmp_path / "usb").rglob(".*"))


def test_what_is_there_is_not_written_again_and_what_is_torn_is(tmp_path, repository, package):
    chunks = all_chunks(package.manifest.files)
    first = write_folder(tmp_path / "usb", repository, package, {})
    assert first == FolderResult(
        target="demo-1.json",
        chunks=len(chunks),
        chunks_written=len(chunks),
        written_bytes=sum(chunk.wire_bytes for chunk in chunks),
    )
    torn = tmp_path / "usb" / layout.blob(chunks[1].sha256)
    torn.write_bytes(torn.read_bytes()[:100])
    again = write_folder(tmp_path / "usb", repository, package, {})
    assert (again.chunks_written, again.written_bytes) == (1, chunks[1].wire_bytes)
    assert torn.stat().st_size == chunks[1].wire_bytes


def test_a_stick_pulled_while_chunks_are_written_leads_to_the_release_before(
    tmp_path, repository, package, monkeypatch
):
    usb = tmp_path / "usb"
    write_folder(usb, repository, package, {"dev-1": b"first"})
    before = {path: path.read_bytes() for path in (usb / "doc").iterdir()}
    second = open_package(make_package(tmp_path, version="2", data=bytes(1000)))

    def pulled(*_, **__):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("trimtab.fleet.folder.write_file", pulled)
    with pytest.raises(StorageError, match=r"writing chunks to .*usb failed: Input/output error"):
        write_folder(usb, repository, second, {"dev-1": b"second"})
    assert {path: path.read_bytes() for path in (usb / "doc").iterdir()} == before
    assert Folder(usb).assignment("dev-1") == b"first"
    monkeypatch.undo()
    write_folder(usb, repository, second, {"dev-1": b"second"})
    trust = TrustStore(tmp_path / "device", repository.root)
    assert trust.target(Folder(usb), "demo-2.json") == second.manifest_bytes


def test_the_timestamp_is_written_after_all_it_leads_to(tmp_path, repository, package, monkeypatch):
    written = []
    monkeypatch.setattr(
        "trimtab.fleet.folder.write_atomically", lambda path, *_, **__: written.append(path.name)
    )
    write_folder(tmp_path / "usb", repository, package, {"dev-1": b"signed"})
    assert written[-3:] == ["timestamp.json", "root-version", "assignment"]
