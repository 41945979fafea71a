"""What waits costs: the agent, connected and with nothing to do, beside the smallest clients.

    python -m venv /tmp/device && /tmp/device/bin/pip install ./agent
    python benchmarks/idle.py /tmp/device/bin/python [--seconds 60] [--only NAME] [--plain]

The first argument is the Python of an environment as a device has it: the agent, what it depends
on, nothing else, and compiled byte code, which pip writes. (An interpreter that compiles what it
imports needs 8 MB more, and keeps them.) The environment that runs this file has `trimtab`; it
runs the broker, `trimtab serve`, first without and then with TLS and client certificates.

One after the other are started, left alone for a while, and watched for a minute:

* `interpreter`: the same Python, asleep.
* `paho-mqtt`: that library alone, connected, subscribed to one topic.
* `mosquitto_sub`: Mosquitto's own client (Debian: mosquitto-clients), the same.
* `agent`: `trimtab-agent run`, as firmware/trimtab-agent.service starts it.

Memory is /proc/PID/smaps_rollup: RSS is every page that is mapped and in memory, USS those of
this process alone, PSS counts a shared page in parts. Processor time is that of all threads in
/proc/PID/task/*/schedstat, in nanoseconds; wakeups are their context switches. Needs Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

NAMES = ("interpreter", "paho-mqtt", "mosquitto_sub", "agent")
SETTLE_S = 15.0
"""The agent greets the broker, and with TLS has a child look at its certificate."""
DEVICE = "idle-1"
TOPIC = f"trimtab/v1/device/{DEVICE}/assignment"
SLEEP = "import time\ntime.sleep(1e6)"
PAHO = """
import sys
import paho.mqtt.client as mqtt
port, folder = int(sys.argv[1]), sys.argv[2]
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
if folder:
    client.tls_set(f"{folder}/ca.pem", f"{folder}/device.pem", f"{folder}/device.key")
client.on_connect = lambda *_: client.subscribe(sys.argv[3], qos=1)
client.connect("127.0.0.1", port)
client.loop_forever()
"""


@dataclass(frozen=True)
class Idle:
    """What a process took while nothing happened.

    Attributes:
        rss_mb: Resident set at the end, in MB of 10^6 bytes, as the next two.
        pss_mb: The same, shared pages by the number of their users.
        uss_mb: Pages that no other process has.
        cpu_percent: Of one core.
        threads: How many there are.
        wakeups_per_s: Context switches of all threads.
    """

    rss_mb: float
    pss_mb: float
    uss_mb: float
    cpu_percent: float
    threads: int
    wakeups_per_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("python", type=Path, help="of an environment that has the agent")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each is watched")
    parser.add_argument("--only", choices=NAMES, help="one of them")
    parser.add_argument("--plain", action="store_true", help="without the part with TLS")
    arguments = parser.parse_args()
    names = [arguments.only] if arguments.only else list(NAMES)
    print("| connection | process | RSS, MB | PSS | USS | threads | core, % | wakeups a second |")
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    for tls in (False,) if arguments.plain else (False, True):
        with tempfile.TemporaryDirectory() as folder, site(Path(folder), tls=tls) as port:
            for name in names:
                command = command_of(name, arguments.python, Path(folder), port, tls=tls)
                if command is None:
                    print(f"| | {name} | not installed | | | | | |")
                    continue
                print_row("TLS 1.3" if tls else "plain", name, watch(command, arguments.seconds))


def print_row(connection: str, name: str, idle: Idle) -> None:
    print(
        f"| {connection} | {name} | {idle.rss_mb:.1f} | {idle.pss_mb:.1f} | {idle.uss_mb:.1f} | "
        f"{idle.threads} | {idle.cpu_percent:.3f} | {idle.wakeups_per_s:.1f} |",
        flush=True,
    )


# What is measured.


def command_of(
    name: str, python: Path, folder: Path, port: int, *, tls: bool
) -> Sequence[str] | None:
    """Returns how to start one of `NAMES`, or None if it is not on this machine."""
    identity = folder / "state" / "identity"
    if name == "interpreter":
        return [str(python), "-c", SLEEP]
    if name == "paho-mqtt":
        return [str(python), "-c", PAHO, str(port), str(identity) if tls else "", TOPIC]
    if name == "agent":
        write_config(folder, None if tls else port)
        return [str(python.parent / "trimtab-agent"), "run", "--config", str(folder / "agent.toml")]
    found = shutil.which("mosquitto_sub")
    if found is None:
        return None
    files = {"--cafile": "ca.pem", "--cert": "device.pem", "--key": "device.key"}
    options = [part for option, file in files.items() for part in (option, str(identity / file))]
    subscription = ["-h", "127.0.0.1", "-p", str(port), "-V", "5", "-q", "1", "-t", TOPIC]
    return [found, *subscription, *(options if tls else [])]


def watch(command: Sequence[str], seconds: float) -> Idle:
    """Starts a process, lets it settle, and watches it."""
    # Byte code that is there is used; none is compiled, nor written, by what is measured.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTHONPATH", None)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment) as process:
        try:
            time.sleep(SETTLE_S)
            before, start = cpu_and_switches(process.pid), time.monotonic()
            time.sleep(seconds)
            after, passed_s = cpu_and_switches(process.pid), time.monotonic() - start
            if process.poll() is not None:
                raise SystemExit(f"{command[0]} ended with {process.returncode}")
            return Idle(
                *memory_mb(process.pid),
                cpu_percent=(after[0] - before[0]) / passed_s * 100,
                threads=len(list(Path(f"/proc/{process.pid}/task").iterdir())),
                wakeups_per_s=(after[1] - before[1]) / passed_s,
            )
        finally:
            process.terminate()


def cpu_and_switches(pid: int) -> tuple[float, int]:
    """Returns the processor time of all threads so far, in seconds, and their context switches."""
    cpu_ns, switches = 0, 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        cpu_ns += int((task / "schedstat").read_text().split()[0])
        counts = re.findall(r"ctxt_switches:\s+(\d+)", (task / "status").read_text())
        switches += sum(map(int, counts))
    return cpu_ns / 1e9, switches


def memory_mb(pid: int) -> tuple[float, float, float]:
    """Returns RSS, PSS and USS."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    fields = {name: int(kib) * 1024 / 1e6 for name, kib in re.findall(r"(\w+):\s+(\d+) kB", text)}
    return fields["Rss"], fields["Pss"], fields["Private_Clean"] + fields["Private_Dirty"]


# What it is connected to.


@contextlib.contextmanager
def site(folder: Path, *, tls: bool) -> Iterator[int]:
    """Runs `trimtab serve`, with TLS after enrolling the device, and yields the broker's port."""
    workspace = str(folder / "workspace")
    trimtab = [sys.executable, "-m", "trimtab"]
    environment = {**os.environ, "TRIMTAB_PASSPHRASE": "idle"}
    subprocess.run(
        [*trimtab, "init", workspace], check=True, env=environment, stdout=subprocess.DEVNULL
    )
    serve = [*trimtab, "serve", "-w", workspace, "--port", "0", "--json", *(["--tls"] * tls)]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            said = ""
            while not said.endswith("}\n"):
                said += process.stdout.readline()
            if tls:
                enrol(folder, workspace, trimtab)
            yield int(json.loads(said)["broker"].rpartition(":")[2])
        finally:
            process.terminate()


def enrol(folder: Path, workspace: str, trimtab: Sequence[str]) -> None:
    """Gets a certificate for the device."""
    made = subprocess.run(
        [*trimtab, "enroll", DEVICE, "-w", workspace, "--json"],
        check=True,
        capture_output=True,
        text=True,
    )
    token = json.loads(made.stdout)["token"]
    write_config(folder, None)
    agent = [sys.executable, "-m", "trimtab_agent.cli", "enroll"]
    subprocess.run(
        [*agent, "--token", token, "--config", str(folder / "agent.toml")],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def write_config(folder: Path, port: int | None) -> None:
    """Writes the device's configuration; without a port, broker and root are those it enrolled."""
    lines = [f'device = "{DEVICE}"', 'profile = "generic-x86-64"', 'state_dir = "state"']
    if port is not None:
        lines.append(f'broker = "mqtt://127.0.0.1:{port}"')
        lines.append('root = "workspace/repository/metadata/1.root.json"')
    (folder / "agent.toml").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
