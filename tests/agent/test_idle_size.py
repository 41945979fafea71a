"""What the agent holds while it waits: no library that it does not use, and at most so much memory.

Measured as on a device: with compiled byte code, and without packages that only a host has.
benchmarks/idle.py has the figures, and those of other clients.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import agent_brokers as brokers
from support.host import Host, write_config

pytestmark = pytest.mark.slow

MOST_RSS_BYTES = 29_500_000
"""27.0 MB were measured (Python 3.11, x86-64); other versions of libraries differ."""
FORBIDDEN = {
    *("numpy", "zstandard", "tuf", "cryptography", "securesystemslib", "psutil", "asyncio"),
    *("email", "http.client", "urllib.request", "ipaddress", "importlib.metadata", "zipfile"),
    *("dataclasses", "inspect", "ast", "statistics", "bz2", "lzma", "ctypes", "typing_extensions"),
    *("trimtab_agent.bench.measure", "trimtab_agent.trust", "trimtab_agent.active"),
}
# The agent, and a thread that tells its modules when it is asked. paho-mqtt imports these packages
# where they are installed, as they may be beside a packager.
AGENT = """
import sys, threading
sys.modules.update(dict.fromkeys(["socks", "dns", "dns.resolver"]))
from trimtab_agent.__main__ import main

def tell():
    sys.stdin.readline()
    print(*sys.modules, flush=True)

threading.Thread(target=tell, daemon=True).start()
sys.exit(main())
"""


@contextlib.contextmanager
def idle_agent(config: Path, host: Host, byte_code: Path) -> Iterator[subprocess.Popen[str]]:
    """Runs the agent, and yields once it is connected and has said so."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(byte_code)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-c", AGENT, "run", "--config", str(config)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment
    ) as process:
        try:
            while not host.status.get(timeout=60).online:
                pass
            yield process
        finally:
            process.kill()


@pytest.fixture
def idle(tmp_path):
    """An agent that waits, started for the second time: the first has compiled the byte code."""
    with (
        brokers.broker("mosquitto", tmp_path) as address,
        contextlib.closing(Host(address)) as host,
    ):
        config = write_config(tmp_path, host)
        with idle_agent(config, host, tmp_path / "byte-code"):
            pass
        assert not host.status.get(timeout=30).online  # the will of the one that was killed
        with idle_agent(config, host, tmp_path / "byte-code") as process:
            yield process


def test_the_waiting_agent_is_small(idle):
    idle.stdin.write("\n")
    idle.stdin.flush()
    loaded = set(idle.stdout.readline().split())
    assert {"paho.mqtt.client", "sqlite3", "trimtab_agent.service"} <= loaded
    assert loaded & FORBIDDEN == set()
    rollup = Path(f"/proc/{idle.pid}/smaps_rollup").read_text()
    rss = re.search(r"^Rss:\s+(\d+) kB", rollup, re.MULTILINE)
    assert rss is not None
    assert int(rss[1]) * 1024 <= MOST_RSS_BYTES, rollup
