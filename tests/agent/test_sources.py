"""One contract over every source, and what each does with a hostile folder, server or stick."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import stat
import time

import pytest

from support.http_servers import scripted_server, static_server
from support.tuf_simulator import RetainedBroker
from trimtab_agent.contract import layout, topics
from trimtab_agent.contract.manifest import Chunk
from trimtab_agent.errors import (
    CallerError,
    DocumentMissingError,
    FormatError,
    NetworkError,
    TransferTimeoutError,
    TrimtabError,
)
from trimtab_agent.fetcher import MqttDocuments
from trimtab_agent.folder_source import Folder
from trimtab_agent.http_source import HttpSource
from trimtab_agent.retained import Retained
from trimtab_agent.source_url import open_source

WIRES = [bytes([number]) * (1000 * number + 1) for number in range(5)]
CHUNKS = [Chunk(sha256=hashlib.sha256(wire).hexdigest(), wire_bytes=len(wire)) for wire in WIRES]
ABSENT = Chunk(sha256=hashlib.sha256(b"absent").hexdigest(), wire_bytes=6)
DOCUMENTS = {"timestamp.json": b"{}", "1.root.json": bytes(200_000), "empty": b""}


def never() -> bool:
    return False


def write(folder, path, data):
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


def fill(folder):
    for chunk, wire in zip(CHUNKS, WIRES, strict=True):
        write(folder, layout.blob(chunk.sha256), wire)
    for name, data in DOCUMENTS.items():
        write(folder, layout.document(name), data)
    write(folder, layout.ROOT_VERSION, b"1")
    write(folder, layout.assignment("dev-1"), b"signed")


@pytest.fixture
def folder(tmp_path):
    fill(tmp_path / "stick")
    return tmp_path / "stick"


class Mqtt:
    """A broker as one source, as far as the contract goes."""

    def __init__(self):
        broker = RetainedBroker()
        broker.connected = broker.retains = True
        broker.silent_s = None
        for chunk, wire in zip(CHUNKS, WIRES, strict=True):
            broker.retained[topics.blob(chunk.sha256)] = wire, {}
        for name, data in DOCUMENTS.items():
            broker.publish_document(name, data, part_bytes=2000)
        broker.retained[topics.ROOT_VERSION] = b"1", {}
        self.read = MqttDocuments(broker, timeout_s=0.2).read
        self.fetch = Retained(broker, timeout_s=0.2).fetch


@contextlib.contextmanager
def opened(kind, folder):
    if kind == "http":
        with static_server(folder) as (url, _), contextlib.closing(HttpSource(url)) as http:
            yield http
    else:
        yield Folder(folder) if kind == "folder" else Mqtt()


@pytest.fixture(params=["folder", "http", "mqtt"])
def source(request, folder):
    """A source that has everything but what is absent."""
    with opened(request.param, folder) as source:
        yield source


@pytest.fixture(params=["folder", "http"])
def files(request, folder):
    """The same, of the kinds that hold files."""
    with opened(request.param, folder) as source:
        yield source


def test_documents_come_whole(source):
    for name, data in DOCUMENTS.items():
        assert b"".join(source.read(name)) == data


def test_a_document_that_is_not_there_is_missing_for_certain(source):
    with pytest.raises(DocumentMissingError, match=r"2.root.json"):
        list(source.read("2.root.json"))
    assert b"".join(source.read("timestamp.json")) == b"{}"


def test_chunks_come_each_once(source):
    assert dict(source.fetch(CHUNKS, stop=never)) == dict(zip(CHUNKS, WIRES, strict=True))


def test_all_that_is_there_comes_before_the_error_about_what_is_not(source):
    came = {}
    with pytest.raises(NetworkError, match=ABSENT.sha256[:12]):
        came.update(source.fetch([CHUNKS[0], ABSENT, *CHUNKS[1:]], stop=never))
    assert came == dict(zip(CHUNKS, WIRES, strict=True))


def test_a_transfer_can_be_stopped(source):
    came = []
    for chunk, _ in source.fetch(CHUNKS, stop=lambda: len(came) == 2):
        came.append(chunk)
    assert len(came) == 2


def test_nothing_to_fetch_is_no_error(source):
    assert list(source.fetch([], stop=never)) == []


def test_a_name_that_is_none_is_refused(source):
    for name in ("", "../../etc/passwd", "/etc/passwd", "a/b", "a\0b", "x" * 129):
        with pytest.raises(FormatError, match="cannot name a document"):
            list(source.read(name))


# Folders and servers hold files, whose names could lead elsewhere, and assignments too.


def test_a_name_that_leads_out_of_the_folder_is_refused(files):
    for name in ("..", ".", ".hidden"):
        with pytest.raises(FormatError, match="cannot name a document"):
            list(files.read(name))


def test_an_assignment_is_there_or_not(files):
    assert files.assignment("dev-1") == b"signed"
    assert files.assignment("dev-2") is None
    with pytest.raises(CallerError, match=r"device id '../x'"):
        files.assignment("../x")


def test_endless_files_are_not_read_to_their_end(files, folder):
    with (folder / "doc" / "endless").open("wb") as file:
        file.truncate(2**40)  # sparse
    with pytest.raises(FormatError, match="longer than 12582912 bytes"):
        for _ in files.read("endless"):
            pass
    (folder / "device" / "dev-3").mkdir()
    os.truncate(folder / "doc" / "endless", 2**20)
    (folder / "doc" / "endless").rename(folder / layout.assignment("dev-3"))
    with pytest.raises(FormatError, match="longer than 65536 bytes"):
        files.assignment("dev-3")


def test_wrong_lengths_are_bounded_and_never_pass(files, folder):
    (folder / layout.blob(CHUNKS[1].sha256)).write_bytes(WIRES[1] * 10_000)
    (folder / layout.blob(CHUNKS[2].sha256)).write_bytes(WIRES[2][:7])
    came = {}
    with contextlib.suppress(NetworkError):
        came.update(files.fetch(CHUNKS, stop=never))
    for chunk, wire in came.items():
        assert len(wire) <= chunk.wire_bytes + 1
        assert (chunk.sha256 == hashlib.sha256(wire).hexdigest()) == (chunk not in CHUNKS[1:3])


# A stick that somebody prepared.


def _pipe(path):
    os.mkfifo(path)


def _socket(path):
    os.mknod(path, stat.S_IFSOCK)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.symlink_to("/etc/passwd"),
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to("timestamp.json"),
        lambda path: path.symlink_to(path.name),
        lambda path: path.mkdir(),
        _pipe,
        _socket,
    ],
    ids=["link-out", "link-device", "link-inside", "link-loop", "directory", "pipe", "socket"],
)
@pytest.mark.timeout(10)
def test_what_is_no_file_is_not_opened(folder, make):
    make(folder / "doc" / "trap")
    chunk = folder / layout.blob(CHUNKS[2].sha256)
    chunk.unlink()
    make(chunk)
    source = Folder(folder)
    with pytest.raises(FormatError, match=r"doc/trap is (a link|no regular file)"):
        list(source.read("trap"))
    came = {}
    with pytest.raises(NetworkError, match=f"lacks 1 of the chunks.*{CHUNKS[2].sha256[:12]}"):
        came.update(source.fetch(CHUNKS, stop=never))
    assert len(came) == 4


def test_a_folder_that_is_a_link_leads_nowhere(folder, tmp_path):
    (folder / "doc").rename(tmp_path / "elsewhere")
    (folder / "doc").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FormatError, match=r"doc/timestamp.json is a link"):
        list(Folder(folder).read("timestamp.json"))


def test_the_folder_itself_may_be_a_link(folder, tmp_path):
    (tmp_path / "usb").symlink_to(folder)
    assert b"".join(Folder(tmp_path / "usb").read("timestamp.json")) == b"{}"


@pytest.mark.parametrize("exists", [True, False])
def test_a_stick_that_is_not_in_says_nothing_about_what_is_on_it(tmp_path, exists):
    mount = tmp_path / "usb"
    if exists:
        mount.mkdir()
    for ask in (
        lambda: list(Folder(mount).read("2.root.json")),
        lambda: Folder(mount).assignment("dev-1"),
        lambda: list(Folder(mount).fetch(CHUNKS, stop=never)),
    ):
        with pytest.raises(NetworkError, match=r"no Trimtab folder.*is it mounted") as raised:
            ask()
        assert not isinstance(raised.value, DocumentMissingError)


# A server that somebody runs.


def _answer(text: bytes):
    def act(connection, _number):
        connection.sendall(text)

    return act


def _endless(head: bytes):
    def act(connection, _number):
        connection.sendall(head)
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(bytes(65536))

    return act


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("act", "error", "said"),
    [
        (_endless(HEAD + b"\r\n"), FormatError, "longer than 12582912"),
        (_endless(HEAD + b"Content-Length: 99999999999\r\n\r\n"), FormatError, "longer than"),
        (_endless(HEAD + b"Content-Length: -1\r\n\r\n"), FormatError, "longer than"),
        (_endless(HEAD + b"X: "), NetworkError, "LineTooLong"),
        (_endless(b""), NetworkError, "no proper HTTP"),
        (_answer(HEAD + b"Content-Length: 9\r\n\r\n{}"), NetworkError, "ended 7 bytes early"),
        (_answer(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"), NetworkError, "Incomplete"),
        (_answer(b"HTTP/1.1 302 Found\r\nLocation: http://x\r\n\r\n"), NetworkError, "302 .redir"),
        (_answer(b"HTTP/1.1 500 Sorry\r\n\r\n"), NetworkError, "answers 500"),
        (_answer(b"HTTP/1.1 206 Part\r\nContent-Length: 0\r\n\r\n"), NetworkError, "answers 206"),
        (_answer(b""), NetworkError, "cannot be reached"),
        (_answer(b"\x15\x03\x01\0\x02\x02\x16"), NetworkError, "no proper HTTP"),
    ],
)
def test_what_is_no_answer_is_a_typed_error(act, error, said):
    with scripted_server(act) as url:
        source = HttpSource(url, timeout_s=2)
        with pytest.raises(error, match=said):
            list(source.read("timestamp.json"))
        assert source._open is None


def _drip(head: bytes):
    def act(connection, _number):
        connection.sendall(head)
        with contextlib.suppress(OSError):
            for _ in range(100):
                connection.sendall(b"a")
                time.sleep(0.05)

    return act


@pytest.mark.parametrize(
    "head",
    [HEAD + b"Content-Length: 90\r\n\r\n", HEAD + b"X-A: ", b"", HEAD + b"Transfer-Encoding: "
     b"chunked\r\n\r\n1;"],
    ids=["body", "header", "status", "chunk-length"],
)  # fmt: skip
def test_a_server_that_drips_is_given_up(head):
    with scripted_server(_drip(head)) as url:
        start = time.monotonic()
        with pytest.raises(TransferTimeoutError, match=r"timestamp.json did not come"):
            list(HttpSource(url, timeout_s=0.3).read("timestamp.json"))
        assert time.monotonic() - start < 2


def test_waiting_for_a_server_can_be_stopped():
    with scripted_server(lambda connection, _: connection.recv(1)) as url:
        source = HttpSource(url, timeout_s=30)
        asked = []
        start = time.monotonic()
        assert list(source.fetch(CHUNKS, stop=lambda: asked.append(1) or len(asked) > 2)) == []
        assert time.monotonic() - start < 5
        source.close()


def test_a_connection_is_kept_and_made_again_when_the_server_closed_it(folder):
    with static_server(folder) as (url, server), contextlib.closing(HttpSource(url)) as source:
        assert len(list(source.fetch(CHUNKS, stop=never))) == 5
        assert server.connections == 1
    replies = {0: b"one", 1: b"two"}

    def once(connection, number):
        connection.sendall(HEAD + b"Content-Length: 3\r\n\r\n" + replies[number])

    with scripted_server(once) as url, contextlib.closing(HttpSource(url)) as source:
        assert [b"".join(source.read("a")) for _ in replies] == [b"one", b"two"]


def test_a_server_that_is_not_there_is_a_network_error():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(NetworkError, match=f"127.0.0.1:{port} cannot be reached"):
        list(HttpSource(f"http://127.0.0.1:{port}").read("a"))


@pytest.mark.parametrize("url", ["file:/media/usb", "file:///media/usb"])
def test_a_folder_is_named_by_a_url(url):
    assert str(open_source(url)) == "file:/media/usb"


def test_a_server_is_named_by_its_url():
    assert str(open_source("https://cache.plant:8443/trimtab/")) == (
        "https://cache.plant:8443/trimtab"
    )


@pytest.mark.parametrize(
    "url",
    ["", "file:", "file:usb", "file://host/usb", "ftp://x/y", "http://", "http:///x", "/media/usb",
     "http://h:port/", "http://h/a b", "http://u:p@h/", "http://h/?q", "http://h/#f", "http://h\n/",
     f"http://{'a' * 70}/", "http://[::1", "mqtt://h"],
)  # fmt: skip
def test_what_names_no_source_is_refused(url):
    with pytest.raises(TrimtabError) as raised:
        open_source(url)
    assert isinstance(raised.value, CallerError)
    assert repr(url) in str(raised.value)
