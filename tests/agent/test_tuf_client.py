"""The commands of the TUF conformance suite, against a repository on a local HTTP server."""

from __future__ import annotations

import hashlib
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from support.tuf_simulator import TufSimulator
from trimtab_agent import tuf_client
from trimtab_agent.cli import main

NAME, CONTENT = "path/to/a model.json", b"content"


@pytest.fixture(autouse=True)
def handlers():
    """Puts back what the command sets for its process."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def simulator():
    simulator = TufSimulator()
    simulator.release(NAME, CONTENT)
    return simulator


@pytest.fixture
def server(simulator):
    """Serves metadata as files, and targets as consistent snapshots name them."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked.append(self.path)
            name = self.path.rpartition("/")[2].partition(".a%20model")[0]
            found = simulator.documents().get(name)
            self.send_response(200 if found is not None else 404)
            self.send_header("Content-Length", str(len(found or b"")))
            self.end_headers()
            self.wfile.write(found or b"")

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked = []
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def client(server, simulator, tmp_path):
    """Returns a function that does one step, as the command would."""
    (tmp_path / "root.json").write_bytes(simulator.roots[0])
    options = [
        *("--metadata-dir", tmp_path / "metadata", "--metadata-url", f"{server.url}/metadata"),
        *("--target-base-url", f"{server.url}/targets", "--target-dir", tmp_path / "targets"),
    ]

    def step(*arguments, names=(NAME,)) -> int:
        wanted = [word for name in names for word in ("--target-name", name)]
        return main(["tuf", *map(str, [*options, *wanted, *arguments])])

    return step


def test_init_refresh_download(client, server, tmp_path):
    assert client("init", tmp_path / "root.json") == 0
    assert server.asked == []
    assert client("refresh") == 0
    roles = {path.name for path in (tmp_path / "metadata").glob("*.json")}
    assert roles == {f"{role}.json" for role in ("root", "timestamp", "snapshot", "targets")}
    assert client("download") == 0
    (file,) = (tmp_path / "targets").iterdir()
    assert file.read_bytes() == CONTENT
    digest = hashlib.sha256(CONTENT).hexdigest()
    server.asked.clear()
    assert client("download") == 0
    assert not [path for path in server.asked if digest in path]  # it is there already


def test_the_chain_starts_from_the_given_root_not_from_the_directory(client, simulator, tmp_path):
    """A root that somebody has put into the directory is worth nothing."""
    assert client("init", tmp_path / "root.json") == 0
    foreign = TufSimulator()
    (tmp_path / "metadata" / "root.json").write_bytes(foreign.roots[0])
    simulator.broker = foreign.broker
    assert client("refresh") == 1


@pytest.mark.parametrize(
    ("arguments", "names", "message"),
    [
        (["refresh"], [NAME], "has no initial root"),
        (["download"], [], "`download` needs --target-name"),
        (["init", "/nowhere/root.json"], [NAME], "cannot read the initial root /nowhere/root.json"),
    ],
)
def test_what_cannot_be_done_exits_with_1(client, capsys, arguments, names, message):
    assert client(*arguments, names=names) == 1
    assert message in capsys.readouterr().err


def test_a_target_that_is_not_signed_ends_the_command(client, capsys, tmp_path):
    assert client("init", tmp_path / "root.json") == 0
    assert client("download", names=[NAME, "ghost.json", "assignment-keys.json"]) == 1
    assert (
        "'ghost.json' is not among the repository's signed TUF targets" in capsys.readouterr().err
    )
    assert len(list((tmp_path / "targets").iterdir())) == 1  # in the order of the arguments


def test_a_body_that_breaks_off_is_a_network_error(simulator, client, server, capsys, tmp_path):
    assert client("init", tmp_path / "root.json") == 0
    handler = server.RequestHandlerClass
    send_header = handler.send_header
    handler.send_header = lambda self, name, value: send_header(
        self, name, "9999" if name == "Content-Length" and "timestamp" in self.path else value
    )
    assert client("refresh") == 1
    assert "did not come whole" in capsys.readouterr().err


def test_a_server_that_is_not_there(tmp_path, capsys):
    (tmp_path / "root.json").write_bytes(TufSimulator().roots[0])
    tuf_client.init(tmp_path / "metadata", tmp_path / "root.json")
    options = ["--metadata-dir", str(tmp_path / "metadata"), "--metadata-url", "http://127.0.0.1:9"]
    assert main(["tuf", *options, "refresh"]) == 1
    assert "cannot be fetched" in capsys.readouterr().err
