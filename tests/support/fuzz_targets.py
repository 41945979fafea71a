"""Every parser that meets bytes from outside, with real examples of what it reads.

A target's `read` may return anything or raise a `TrimtabError`; whatever else comes out of it is a
fault. Add a target here when a new parser appears.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from support.fuzz_inputs import Mutator, change_bytes, change_json, change_text
from support.manifests import small_package
from support.packages import make_package
from support.tuf_simulator import TufSimulator
from support.updates import INVENTORY, MEASUREMENT
from trimtab.fleet.incoming import decode_from_device
from trimtab.fleet.ingest import Ingest
from trimtab.fleet.reports import ReportStore
from trimtab.hardware import load_profile
from trimtab.package.read import open_package
from trimtab_agent import frames
from trimtab_agent.bench.golden import load_samples
from trimtab_agent.bench.process import understand
from trimtab_agent.bench.protocol import Reply, Request
from trimtab_agent.broker_url import parse_broker_url
from trimtab_agent.config import load_config
from trimtab_agent.contract import codec, topics
from trimtab_agent.contract.commands import COMMAND_CONTEXT, Command, CommandReply
from trimtab_agent.contract.enrolment import (
    EnrolmentAnswer,
    EnrolmentRequest,
    Token,
    decode_token,
    encode_token,
)
from trimtab_agent.contract.manifest import Manifest, PackageFile, parse_manifest
from trimtab_agent.contract.messages import (
    ASSIGNMENT_CONTEXT,
    Acknowledgement,
    Assignment,
    AssignmentKeys,
    Failure,
    GoldenCheck,
    Progress,
    Report,
    Signed,
    Status,
    Transfer,
)
from trimtab_agent.contract.wants import decode_want, encode_want
from trimtab_agent.decode import decode_file
from trimtab_agent.delta_base import FileBase
from trimtab_agent.fetcher import MqttDocuments
from trimtab_agent.hours import parse_hours
from trimtab_agent.signed import verify_signed
from trimtab_agent.source_url import open_source
from trimtab_agent.state import Findings, Memory, open_memory
from trimtab_agent.trust import TrustStore

DEVICE = "dev-1"
NOW = datetime.now(timezone.utc)
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Target:
    """One parser.

    Attributes:
        name: For messages and file names.
        examples: Valid inputs.
        change: How an example is spoilt.
        read: Reads an input as the product does.
        slow: Whether one input takes more than some milliseconds.
    """

    name: str
    examples: Sequence[bytes]
    change: Mutator
    read: Callable[[bytes], object]
    slow: bool = False


ASSIGNMENT = Assignment(
    device=DEVICE,
    counter=7,
    target="demo-1.json",
    issued="2026-11-22T11:00:00Z",
    expires="2126-12-22T11:00:00Z",
    trial="t-1",
)
COMMAND = Command(
    device=DEVICE,
    counter=8,
    action="logs",
    issued="2026-11-22T11:00:00Z",
    expires="2126-12-22T11:00:00Z",
)
REPORT = Report(
    id="a3b0c1d2-0000-4000-8000-000000000001",
    device=DEVICE,
    counter=7,
    target="demo-1.json",
    target_sha256="0" * 64,
    trial="t-1",
    outcome="active",
    active="demo-1.json",
    failure=Failure(state="staged", reason="golden", message="differs"),
    transfer=Transfer(chunks=3, chunks_reused=1, wire_bytes=100, duration_s=0.5),
    golden=GoldenCheck(samples=1, max_abs_error=0.0, limit=0.1),
    measurement=MEASUREMENT,
    inventory=INVENTORY,
    started="2026-11-22T11:00:00Z",
    finished="2026-11-22T11:01:00Z",
)
PROGRESS = Progress(device=DEVICE, counter=7, target="demo-1.json", state="fetching")
STATUS = Status(device=DEVICE, online=True, active="demo-1.json", inventory=INVENTORY)
REPLY = CommandReply(device=DEVICE, counter=8, action="logs", active=None, paused=False)


def targets(directory: Path) -> tuple[Target, ...]:
    """Builds all targets.

    Args:
        directory: Scratch room for those that read files.
    """
    return (
        *_messages(),
        *_texts(directory),
        *_trust(directory),
        *_packages(directory),
        *_children(),
        *_databases(directory),
        _ingest(directory),
    )


def _messages() -> Iterator[Target]:
    """Messages that are decoded and nothing more."""
    token = Token(
        id="i", secret="s", device=DEVICE, broker="mqtts://h:1", enrolment="mqtts://h:2",
        ca=b"der", root_sha256=bytes(32), expires="2026-11-22T11:00:00Z",
    )  # fmt: skip
    values: dict[type[msgspec.Struct], msgspec.Struct] = {
        Assignment: ASSIGNMENT,
        Command: COMMAND,
        Acknowledgement: Acknowledgement(ids=("a", "b")),
        AssignmentKeys: AssignmentKeys(keys={"0" * 64: bytes(32)}),
        EnrolmentRequest: EnrolmentRequest(csr="-----BEGIN"),
        EnrolmentAnswer: EnrolmentAnswer(certificate="-----BEGIN", root=b"{}"),
    }
    for kind, value in values.items():
        yield Target(
            kind.__name__.lower(),
            [codec.encode(value)],
            change_json,
            lambda data, kind=kind: codec.decode(data, kind, what="a message"),
        )
    from_device = {
        Report: (REPORT, topics.report(DEVICE)),
        Progress: (PROGRESS, topics.progress(DEVICE)),
        Status: (STATUS, topics.status(DEVICE)),
        CommandReply: (REPLY, topics.reply(DEVICE)),
    }
    for sent, (message, topic) in from_device.items():
        yield Target(
            f"{sent.__name__.lower()} from a device",
            [codec.encode(message)],
            change_json,
            lambda data, sent=sent, topic=topic: decode_from_device(topic, data, sent),
        )
    want = encode_want([hashlib.sha256(bytes([n])).hexdigest() for n in range(5)])
    yield Target("want-list", [want], change_bytes, lambda data: decode_want(data, what="a want"))
    yield Target(
        "token",
        [encode_token(token).encode()],
        change_bytes,
        lambda data: decode_token(data.decode(errors="surrogateescape")),
    )


def _texts(directory: Path) -> Iterator[Target]:
    """What people write: settings, addresses, profiles."""

    def text(read: Callable[[str], object]) -> Callable[[bytes], object]:
        return lambda data: read(data.decode(errors="surrogateescape"))

    yield Target("hours", [b"01:00-05:00, 22:30-24:00"], change_bytes, text(parse_hours))
    urls = [b"mqtts://plant.local:8883/", b"mqtt://[::1]:1883"]
    yield Target("broker address", urls, change_bytes, text(parse_broker_url))
    sources = [b"file:/media/usb", b"http://cache:8080/trimtab", b"https://[::1]/"]
    yield Target("source address", sources, change_bytes, text(open_source))
    settings = directory / "agent.toml"
    yield Target(
        "configuration",
        [(ROOT / "firmware" / "agent.example.toml").read_bytes()],
        change_text,
        lambda data: load_config(_written(settings, data)),
    )
    example = next((ROOT / "profiles").glob("generic-x86-64.yaml"))
    yield Target(
        "profile",
        [example.read_bytes()],
        change_text,
        lambda data: load_profile(_written(directory / example.name, data)),
        slow=True,
    )


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _trust(directory: Path) -> Iterator[Target]:
    """What the verifier reads: signed messages, TUF's documents, and what it kept on the disk."""
    simulator = TufSimulator()
    simulator.release("demo-1.json", small_package().manifest_bytes)
    keys = AssignmentKeys(keys={simulator.assignment_keyid: _raw_key(simulator)})

    def verify(data: bytes, context: bytes = ASSIGNMENT_CONTEXT) -> bytes:
        return verify_signed(data, keys, what="it", context=context, device=DEVICE, now=NOW)

    signed = simulator.assign(ASSIGNMENT)
    yield Target("signed message", [signed], change_json, verify)

    def verify_payload(data: bytes) -> bytes:
        """Signs what is to be read, because the signature is checked first."""
        signature = simulator.assignment_key.sign(ASSIGNMENT_CONTEXT + data)
        entry = codec.decode(signed, Signed, what="").signatures[0]
        entry = msgspec.structs.replace(entry, signature=signature)
        return verify(codec.encode(Signed(payload=data, signatures=(entry,))))

    yield Target("signed payload", [codec.encode(ASSIGNMENT)], change_json, verify_payload)
    documents = {
        name.removeprefix("trimtab/v1/doc/").rpartition("/")[0]
        for name in simulator.broker.retained
        if "/doc/" in name
    }
    for name in sorted(documents):
        if name.endswith(".json"):
            yield _document(simulator, name, directory)
    yield _kept_metadata(simulator, directory)


def _raw_key(simulator: TufSimulator) -> bytes:
    return simulator._raw_assignment_key


def _document(simulator: TufSimulator, name: str, directory: Path) -> Target:
    """One of TUF's documents on the broker, in place of the right one."""
    right = b"".join(MqttDocuments(simulator.broker, timeout_s=1.0).read(name))
    numbers = itertools.count()

    def read(data: bytes) -> object:
        class Documents:
            def read(self, asked: str) -> Iterator[bytes]:
                if asked == name:
                    return iter([data])
                return MqttDocuments(simulator.broker, timeout_s=1.0).read(asked)

        kept = directory / f"trust-{name}-{next(numbers)}"
        return TrustStore(kept, simulator.roots[0]).target(Documents(), "demo-1.json")

    return Target(f"TUF document {name}", [right], change_json, read, slow=True)


def _kept_metadata(simulator: TufSimulator, directory: Path) -> Target:
    """The trusted metadata on the device's own disk, damaged; it must heal or be refused."""
    kept = directory / "kept-trust"
    documents = MqttDocuments(simulator.broker, timeout_s=1.0)
    TrustStore(kept, simulator.roots[0]).refresh(documents)
    files = sorted(path for path in kept.rglob("*.json") if not path.is_symlink())
    turns = itertools.cycle(files)

    def read(data: bytes) -> object:
        next(turns).write_bytes(data)
        return TrustStore(kept, simulator.roots[0]).target(documents, "demo-1.json")

    return Target("kept metadata", [p.read_bytes() for p in files], change_json, read, slow=True)


def _packages(directory: Path) -> Iterator[Target]:
    """Manifests, package files, coded streams, deltas, golden samples."""
    rng = np.random.default_rng(1)
    weights = rng.normal(0, 20, 40_000).clip(-127, 127).astype(np.int8).tobytes()
    content = weights + rng.normal(0, 1, 5_000).astype(np.float32).tobytes() + b"tail"
    path = make_package(directory, data=content, chunk_limit_bytes=16 * 1024)
    package = open_package(path)
    changed = bytearray(content)
    changed[::500] = bytes((byte + 1) % 256 for byte in changed[::500])
    (directory / "next").mkdir()
    newer = open_package(
        make_package(
            directory / "next", data=bytes(changed), version="2", bases=[package.as_base()]
        )
    )
    manifests = [package.manifest_bytes, newer.manifest_bytes, small_package().manifest_bytes]
    yield Target("manifest", manifests, change_json, parse_manifest)
    yield Target(
        "package file",
        [path.read_bytes()],
        change_bytes,
        lambda data: open_package(_written(directory / "fuzzed.trimtab", data)),
        slow=True,
    )
    yield _stream("coded stream", package.manifest, dict(_wire(package)), None)
    based = next(file for file in newer.manifest.files if file.deltas)
    delta = msgspec.structs.replace(based, chunks=based.deltas[0].chunks)
    manifest = msgspec.structs.replace(newer.manifest, files=(delta,))
    yield _stream("delta stream", manifest, dict(_wire(newer)), content)
    golden = package.read_file(package.manifest.golden.path)
    yield Target(
        "golden samples",
        [golden],
        change_bytes,
        lambda data: load_samples(_written(directory / "fuzzed.npz", data)),
    )


def _wire(package: Any) -> Iterator[tuple[str, bytes]]:
    return ((chunk.sha256, wire) for chunk, wire in package.wire_chunks())


def _stream(name: str, manifest: Manifest, wire: dict[str, bytes], base: bytes | None) -> Target:
    """A file's coded bytes; the chunk's hash is made to fit, so that decoding is reached."""
    streams = {
        b"".join(wire[chunk.sha256] for chunk in file.chunks): file for file in manifest.files
    }
    largest = max(manifest.files, key=lambda file: file.size_bytes)

    def read(data: bytes) -> object:
        file = streams.get(data, largest)
        chunk = msgspec.structs.replace(
            file.chunks[0], sha256=hashlib.sha256(data).hexdigest(), wire_bytes=len(data)
        )
        forged: PackageFile = msgspec.structs.replace(file, chunks=(chunk,))
        opened = None if base is None else FileBase(io.BytesIO(base))
        return sum(len(piece) for piece in decode_file(forged, lambda _: data, base=opened))

    return Target(name, list(streams), change_bytes, read)


def _children() -> Iterator[Target]:
    """What child processes answer, and the frames it comes in."""
    request = Request(
        mode="latency",
        runtime=small_package().manifest.runtime,
        model_path="/m",
        golden_path="/g",
        plan=_plan(),
    )
    reply = codec.encode(Reply())
    yield Target("bench reply", [reply], change_json, lambda data: understand(data, request))

    def receive(data: bytes) -> object:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(data[:60_000])
            theirs.shutdown(socket.SHUT_WR)
            # A side that goes away in the middle is for the caller to name.
            with contextlib.suppress(EOFError):
                while True:
                    frames.receive(ours, timeout_s=1.0)

    frame = frames.PIECE + (5).to_bytes(4, "big") + b"bytes"
    yield Target("frames of a child", [frame, frame * 20], change_bytes, receive)


def _plan() -> Any:
    from trimtab_agent.bench.plan import QUICK

    return QUICK


def _databases(directory: Path) -> Iterator[Target]:
    """The agent's database with damaged pages."""
    path = directory / "state.sqlite"
    with Memory(path) as memory:
        _use(memory)
    good = path.read_bytes()
    numbers = itertools.count()

    def read(data: bytes) -> object:
        damaged = directory / f"damaged-{next(numbers)}.sqlite"
        damaged.write_bytes(data)
        try:
            with open_memory(damaged) as memory:
                _ = memory.pending, memory.counter, memory.message_sha256
                _ = [memory.report(id_) for id_ in memory.outbox]
                _use(memory)
        finally:
            for left in directory.glob(f"{damaged.name}*"):
                left.unlink()

    yield Target("state database", [good], change_bytes, read, slow=True)


def _use(memory: Memory) -> None:
    memory.accept(ASSIGNMENT, message_sha256="0" * 64, started="2026-11-22T11:00:00Z")
    memory.begin()
    memory.reach("fetching", Findings(manifest=small_package().manifest_bytes))
    memory.settle(msgspec.structs.replace(REPORT, id="another"))
    memory.acknowledge(["another"])
    memory.settle(msgspec.structs.replace(REPORT, id="kept"))
    memory.acknowledge(["kept"])
    memory.accept(ASSIGNMENT, message_sha256="0" * 64, started="2026-11-22T11:00:00Z")


class _Link:
    """Gives messages to the handlers, and forgets what is published."""

    def __init__(self) -> None:
        self.handlers: dict[str, Callable[[str, bytes, dict[str, str]], None]] = {}

    def subscribe(self, topic: str, handler: Callable[[str, bytes, dict[str, str]], None]) -> None:
        self.handlers[topic] = handler

    def publish(self, topic: str, payload: bytes, **_: object) -> None:
        assert topics.device_of(topic) == DEVICE


def _ingest(directory: Path) -> Target:
    """Reports into the host's database; a handler may raise nothing but typed errors."""
    link = _Link()
    store = ReportStore(f"sqlite:///{directory / 'reports.sqlite'}")
    Ingest(link, store)  # type: ignore[arg-type]

    def receive(data: bytes) -> object:
        link.handlers[topics.ALL_REPORTS](topics.report(DEVICE), data, {})
        return store.find(DEVICE, 7)

    return Target("ingest", [codec.encode(REPORT)], change_json, receive, slow=True)


__all__ = ["COMMAND_CONTEXT", "Target", "targets"]
