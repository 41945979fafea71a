"""Chunks onto a device: speed beside HTTP, a fleet at once, memory, and what kills cost.

    python benchmarks/transfer.py [--quick] [--folder FOLDER] [--only PART]

Everything runs on this machine, over loopback, against Mosquitto with the configuration that
Trimtab generates. A device is a process of its own that runs the agent's code: link, ways, pull,
chunk cache. Plain HTTP is one file of the same size from `python -m http.server`, and from
nginx where it is installed: urllib reads 96 KiB, hashes, writes; curl is piped through `tee` to
`sha256sum`, or only writes. Nobody syncs. `chunks by HTTP` is the device with a web server in
place of the broker. They take turns; a ratio is that of a round. Needs Mosquitto; uses curl and
nginx if they are there.

Parts: `one` (64 MiB to one device), `fleet` (64 MiB to each of 20 devices), `memory` (1 GiB),
`client-killed`, `broker-killed`, `broker-wiped`. Prints Markdown; benchmarks/README.md has results.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import hashlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec

from trimtab_agent.chunk_cache import ChunkCache, scan
from trimtab_agent.contract import layout, topics
from trimtab_agent.contract.chunks import DEFAULT_CHUNK_BYTES
from trimtab_agent.contract.manifest import Chunk
from trimtab_agent.http_source import HttpSource
from trimtab_agent.link import Link, parse_broker_url
from trimtab_agent.pull import pull
from trimtab_agent.transfer import mqtt_ways

MIB = 1024 * 1024
TIMEOUT_S = 30.0
PARTS = ("one", "fleet", "memory", "client-killed", "broker-killed", "broker-wiped")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="16 MiB, 5 devices, few rounds")
    parser.add_argument("--folder", type=Path, help="where the files go; emptied at the end")
    parser.add_argument("--only", choices=PARTS, help="one part")
    roles = parser.add_subparsers(dest="role")
    device = roles.add_parser("device")
    for name in ("broker", "chunks", "cache", "name"):
        device.add_argument(name)
    device.add_argument("--http", help="a server to take the chunks from instead")
    download = roles.add_parser("http")
    for name in ("url", "path"):
        download.add_argument(name)
    arguments = parser.parse_args()
    if arguments.role == "device":
        be_device(arguments)
    elif arguments.role == "http":
        be_http_client(arguments.url, Path(arguments.path))
    else:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            measure(Path(folder), quick=arguments.quick, only=arguments.only)


# What the processes do that are measured. Each prints one line of JSON.


def be_device(arguments: argparse.Namespace) -> None:
    """Pulls all chunks of a list into a cache, as the agent does."""
    import trimtab_agent.service  # noqa: F401 - so that the memory is that of the whole agent

    cache_path = Path(arguments.cache)
    cache_path.mkdir(parents=True, exist_ok=True)
    cache = ChunkCache(cache_path)
    with Link(parse_broker_url(arguments.broker), arguments.name) as link:
        link.connect(TIMEOUT_S)
        ways = mqtt_ways(link, device=arguments.name, timeout_s=TIMEOUT_S)(None)
        if arguments.http:
            ways = {"http": HttpSource(arguments.http)}
        print("ready", flush=True)
        sys.stdin.readline()
        Path("/proc/self/clear_refs").write_text("5")  # the largest resident set starts anew
        before = memory_bytes("VmRSS")
        cpu = time.process_time()
        start = time.perf_counter()
        chunks = msgspec.json.decode(Path(arguments.chunks).read_bytes(), type=list[Chunk])
        transfer = pull(ways, chunks, cache, stop=lambda: False)
        print(
            json.dumps(
                {
                    "seconds": time.perf_counter() - start,
                    "cpu": time.process_time() - cpu,
                    "growth": memory_bytes("VmHWM") - before,
                    "resident": memory_bytes("VmHWM"),
                    **msgspec.to_builtins(transfer),
                }
            ),
            flush=True,
        )


def be_http_client(url: str, path: Path) -> None:
    """Downloads one file, hashing and writing it."""
    print("ready", flush=True)
    sys.stdin.readline()
    cpu, start = time.process_time(), time.perf_counter()
    digest, size = hashlib.sha256(), 0
    with urllib.request.urlopen(url) as answer, path.open("wb") as file:
        while piece := answer.read(DEFAULT_CHUNK_BYTES):
            digest.update(piece)
            file.write(piece)
            size += len(piece)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "cpu": time.process_time() - cpu, "size": size}))


def memory_bytes(field: str) -> int:
    """Returns a figure of this process's memory."""
    found = re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found, field
    return int(found[1]) * 1024


# What they are measured against.


class Broker:
    """Mosquitto with Trimtab's configuration, which can be killed and wiped."""

    def __init__(self, folder: Path) -> None:
        from trimtab.fleet.brokers import Mosquitto

        self._folder = folder
        folder.mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"mqtt://127.0.0.1:{port}"
        self._command = Mosquitto().prepare(folder, "127.0.0.1", port)
        self.start()

    def start(self) -> None:
        """Starts it and waits until it answers."""
        self._process = subprocess.Popen(self._command, stderr=subprocess.DEVNULL)
        for _ in range(500):
            with contextlib.suppress(Exception), Link(parse_broker_url(self.url), "probe") as link:
                link.connect(1)
                return
            time.sleep(0.02)
        raise SystemExit("Mosquitto does not start")

    def save(self) -> None:
        """Has it write its retained messages, as it does every minute."""
        self._process.send_signal(signal.SIGUSR1)
        time.sleep(1.0)

    def kill(self) -> None:
        """Kills it as a power cut would."""
        self._process.kill()
        self._process.wait()

    def wipe(self) -> None:
        """Removes what it has written."""
        (self._folder / "mosquitto.db").unlink(missing_ok=True)

    def cpu_s(self) -> float:
        """Returns the processor time that it has taken."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Content:
    """Chunks of noise that can be made again from their number, so that none are kept."""

    def __init__(self, size_bytes: int, folder: Path) -> None:
        count = -(-size_bytes // DEFAULT_CHUNK_BYTES)
        self.numbers: dict[str, int] = {}
        self.size_bytes = count * DEFAULT_CHUNK_BYTES
        for number in range(count):
            self.numbers[hashlib.sha256(self._wire(number)).hexdigest()] = number
        self.chunks = [Chunk(sha256=name, wire_bytes=DEFAULT_CHUNK_BYTES) for name in self.numbers]
        self.list = folder / f"chunks-{count}.json"
        self.list.write_bytes(msgspec.json.encode(self.chunks))

    @staticmethod
    def _wire(number: int) -> bytes:
        return random.Random(number).randbytes(DEFAULT_CHUNK_BYTES)

    def read(self, sha256: str) -> bytes | None:
        """What `fleet.chunk_server` asks of a library."""
        number = self.numbers.get(sha256)
        return None if number is None else self._wire(number)

    def publish(self, link: Link) -> None:
        """Publishes all of it, retained."""
        for position, name in enumerate(self.numbers):
            last = position % 64 == 63 or position == len(self.numbers) - 1
            wire = self.read(name) or b""
            link.publish(topics.blob(name), wire, retain=True, wait_s=60 if last else None)

    def write(self, path: Path) -> None:
        """Writes all of it into one file, for HTTP."""
        with path.open("wb") as file:
            for name in self.numbers:
                file.write(self.read(name) or b"")

    def write_chunks(self, folder: Path) -> None:
        """Writes all of it as the agent's HTTP source reads it."""
        for name in self.numbers:
            path = folder / layout.blob(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.read(name) or b"")


class Process:
    """A device or a client that waits for the start signal."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        assert self.process.stdout.readline() == "ready\n", "the process did not start"

    def go(self) -> None:
        """Gives the start signal."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def result(self) -> dict[str, float]:
        """Returns what it prints at its end."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        self.process.wait()
        found: dict[str, float] = json.loads(line)
        return found


# The parts.


def measure(folder: Path, *, quick: bool, only: str | None) -> None:
    size = (16 if quick else 64) * MIB
    parts: dict[str, Callable[[], None]] = {
        "one": partial(one_device, folder, size, rounds=3 if quick else 11),
        "fleet": partial(fleet, folder, size, devices=5 if quick else 20, rounds=1 if quick else 3),
        "memory": partial(memory, folder, (128 if quick else 1024) * MIB),
        "client-killed": partial(client_killed, folder, size),
        "broker-killed": partial(broker_killed, folder, size, wiped=False),
        "broker-wiped": partial(broker_killed, folder, size, wiped=True),
    }
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores", flush=True)
    for name, part in parts.items():
        if only in (None, name):
            print(f"\n{name}:", flush=True)
            part()
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextlib.contextmanager
def published(folder: Path, size: int) -> Iterator[tuple[Broker, Content]]:
    broker = Broker(folder / "broker")
    content = Content(size, folder)
    try:
        with Link(parse_broker_url(broker.url), "publisher") as link:
            link.connect(TIMEOUT_S)
            content.publish(link)
        yield broker, content
    finally:
        broker.kill()


def start_device(
    broker: Broker, content: Content, cache: Path, name: str = "dev", *more: str
) -> Process:
    return Process("device", broker.url, str(content.list), str(cache), name, *more)


def one_device(folder: Path, size: int, *, rounds: int) -> None:
    """One device beside urllib and curl, in turns."""
    with (
        published(folder, size) as (broker, content),
        web_server(folder) as url,
        nginx(folder) as fast_url,
    ):
        content.write(folder / "file")
        content.write_chunks(folder)
        cache, copy = folder / "cache", folder / "copy"
        runs: dict[str, Callable[[], dict[str, float] | None]] = {
            "device": lambda: run(start_device(broker, content, cache)),
            "device, chunks by HTTP": lambda: run(
                start_device(broker, content, cache, "dev", "--http", url)
            ),
            "urllib": lambda: run(Process("http", f"{url}/file", str(copy))),
            "curl, tee, sha256sum": lambda: curl_hashed(f"{url}/file", copy),
            "curl, not hashed": lambda: curl(f"{url}/file", copy),
        }
        if fast_url:
            runs["urllib from nginx"] = lambda: run(Process("http", f"{fast_url}/file", str(copy)))
            runs["curl, tee, sha256sum from nginx"] = lambda: curl_hashed(f"{fast_url}/file", copy)
        found: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
        for number in range(rounds + 1):
            for name, call in runs.items():
                result = call()
                if number and result:  # the first round warms up
                    found[name].append(result)
                shutil.rmtree(cache, ignore_errors=True)
    print("| | MB/s median (10 to 90 %) | processor s | times the speed of urllib |")
    print("|---|--:|--:|--:|")
    for name, results in found.items():
        if results:
            speeds = [content.size_bytes / 1e6 / each["seconds"] for each in results]
            ratios = [
                base["seconds"] / each["seconds"]
                for each, base in zip(results, found["urllib"], strict=True)
            ]
            cpu = statistics.median(each["cpu"] for each in results)
            print(f"| {name} | {spread(speeds, '.0f')} | {cpu:.2f} | {spread(ratios, '.2f')} |")


def fleet(folder: Path, size: int, *, devices: int, rounds: int) -> None:
    """Many devices at once: bytes of all by the time until the last is done."""
    with published(folder, size) as (broker, content):
        speeds, broker_cpu, cpus = [], [], []
        for number in range(rounds):
            caches = [folder / f"cache-{number}-{device}" for device in range(devices)]
            started = [
                start_device(broker, content, cache, f"dev{index}")
                for index, cache in enumerate(caches)
            ]
            cpu, start = broker.cpu_s(), time.perf_counter()
            for each in started:
                each.go()
            results = [each.result() for each in started]
            speeds.append(devices * content.size_bytes / 1e6 / (time.perf_counter() - start))
            broker_cpu.append(broker.cpu_s() - cpu)
            cpus += [each["cpu"] for each in results]
            for cache in caches:
                shutil.rmtree(cache)
    print(
        f"{devices} devices: {spread(speeds, '.0f')} MB/s together; processor "
        f"{statistics.median(cpus):.2f} s a device, {statistics.median(broker_cpu):.2f} s broker"
    )


def memory(folder: Path, size: int) -> None:
    """Growth of the largest resident set over a large pull."""
    with published(folder, size) as (broker, content):
        result = run(start_device(broker, content, folder / "cache"))
        again = run(start_device(broker, content, folder / "cache"))
    for what, each in (("pull", result), ("pull again, all there", again)):
        print(
            f"{what}: {size // MIB} MiB in {each['seconds']:.1f} s, processor {each['cpu']:.1f} s; "
            f"resident set grew {each['growth'] / 1e6:.1f} MB to {each['resident'] / 1e6:.1f} MB"
        )


def client_killed(folder: Path, size: int) -> None:
    """A device killed in the middle and started again."""
    with published(folder, size) as (broker, content):
        for number in range(5):
            cache = folder / f"cache-{number}"
            first = start_device(broker, content, cache)
            first.go()
            kill_after = (number + 1) * len(content.chunks) // 7
            wait_for_chunks(cache, kill_after, first)
            first.process.kill()
            first.process.wait()
            there = count(cache)
            result = run(start_device(broker, content, cache))
            twice = there - result["chunks_reused"]
            print(
                f"killed with {there} of {len(content.chunks)} chunks: fetched {result['by_way']}, "
                f"{twice} verified chunks twice"
            )


def broker_killed(folder: Path, size: int, *, wiped: bool) -> None:
    """The broker killed in the middle; it comes back with its store, or empty."""
    from trimtab.fleet.chunk_server import ChunkServer

    with (
        published(folder, size) as (broker, content),
        Link(parse_broker_url(broker.url), "host") as host,
    ):
        host.connect(TIMEOUT_S)
        with ChunkServer(host, content, share="benchmark"):
            for number in range(3):
                cache = folder / f"cache-{number}"
                broker.save()
                device = start_device(broker, content, cache)
                device.go()
                wait_for_chunks(cache, (number + 1) * len(content.chunks) // 5, device)
                broker.kill()
                if wiped:
                    broker.wipe()
                there, start = count(cache), time.perf_counter()
                broker.start()
                wait_for_chunks(cache, there + 20, device)
                moving_s = time.perf_counter() - start
                result = device.result()
                print(
                    f"killed at {there} of {len(content.chunks)} chunks: moving after "
                    f"{moving_s:.1f} s, done {time.perf_counter() - start:.1f} s after the "
                    f"restart; {result['by_way']}"
                )
                if wiped:
                    with Link(parse_broker_url(broker.url), "publisher") as link:
                        link.connect(TIMEOUT_S)
                        content.publish(link)


# Helpers.


@contextlib.contextmanager
def web_server(folder: Path) -> Iterator[str]:
    """Python's HTTP server, in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    quiet = subprocess.DEVNULL
    server = subprocess.Popen(command, cwd=folder, stdout=quiet, stderr=quiet)
    try:
        wait_for_port(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


@contextlib.contextmanager
def nginx(folder: Path) -> Iterator[str | None]:
    """Nginx with `sendfile`, or None where it is not installed."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        yield None
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Its worker drops its rights where it has any, and must be able to read this user's folder.
    user = getpass.getuser()
    settings = folder / "nginx.conf"
    settings.write_text(
        f"daemon off; user {user}; pid {folder}/nginx.pid; error_log /dev/null;\n"
        f"events {{}}\nhttp {{ access_log off; sendfile on; tcp_nopush on;\n"
        f"server {{ listen 127.0.0.1:{port}; root {folder}; }} }}\n"
    )
    command = [program, "-c", str(settings), "-e", "/dev/null"]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def wait_for_port(port: int) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise SystemExit("a web server does not start")


def run(process: Process) -> dict[str, float]:
    process.go()
    return process.result()


def curl(url: str, path: Path) -> dict[str, float] | None:
    """Downloads with curl, which hashes nothing."""
    if not shutil.which("curl"):
        return None
    form = '{"seconds": %{time_total}, "cpu": 0}'
    command = ["curl", "-s", "-o", str(path), "-w", form, url]
    done = subprocess.run(command, capture_output=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def curl_hashed(url: str, path: Path) -> dict[str, float] | None:
    """Downloads with curl and hashes beside it, each program in a process of its own."""
    if not shutil.which("curl"):
        return None
    start = time.perf_counter()
    command = f"curl -s {shlex.quote(url)} | tee {shlex.quote(str(path))} | sha256sum"
    subprocess.run(command, shell=True, stdout=subprocess.DEVNULL, check=True)
    return {"seconds": time.perf_counter() - start, "cpu": 0.0}


def count(cache: Path) -> int:
    return sum(1 for pack in cache.glob("*.pack") for _ in scan(pack))


def wait_for_chunks(cache: Path, number: int, device: Process) -> None:
    while count(cache) < number:
        if device.process.poll() is not None:
            raise SystemExit("the device ended early")
        time.sleep(0.002)


def spread(values: list[float], form: str) -> str:
    """Returns the median and, of more than two values, where the middle 80 % lie."""
    median = f"{statistics.median(values):{form}}"
    if len(values) < 3:
        return median
    tenths = statistics.quantiles(values, n=10, method="inclusive")
    return f"{median} ({tenths[0]:{form}} to {tenths[-1]:{form}})"


if __name__ == "__main__":
    main()
