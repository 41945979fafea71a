"""A host for tests of the agent: releases packages over a real broker and hears what comes back."""

from __future__ import annotations

import queue
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np

from support.manifests import SmallPackage, small_package
from support.models import INPUTS, WIDTH, write_model
from support.tuf_simulator import TufSimulator
from trimtab_agent.contract import codec, topics
from trimtab_agent.contract.manifest import TensorSpec
from trimtab_agent.contract.messages import (
    Acknowledgement,
    Assignment,
    Progress,
    Report,
    Status,
)
from trimtab_agent.link import BrokerUrl, Link

DEVICE = "dev-1"


class Host:
    """Signs, publishes, acknowledges; `reports`, `progress` and `status` hold what came."""

    def __init__(self, address: BrokerUrl, *, acknowledges: bool = True) -> None:
        self.address = address
        self.acknowledges = acknowledges
        self.simulator = TufSimulator()
        self.reports: queue.Queue[Report] = queue.Queue()
        self.progress: queue.Queue[Progress] = queue.Queue()
        self.status: queue.Queue[Status] = queue.Queue()
        self.link = Link(address, "host")
        self.link.connect(5)
        self._listen(topics.report(DEVICE), Report, self.reports)
        self._listen(topics.progress(DEVICE), Progress, self.progress)
        self._listen(topics.status(DEVICE), Status, self.status)

    def _listen(self, topic, kind, inbox) -> None:
        def take(_topic, payload, _properties) -> None:
            if not payload:
                return
            value = codec.decode(payload, kind, what=topic)
            if isinstance(value, Report) and self.acknowledges:
                message = codec.encode(Acknowledgement(ids=(value.id,)))
                self.link.publish(topics.acknowledgement(DEVICE), message)
            inbox.put(value)

        self.link.subscribe(topic, take)

    def publish_metadata(self) -> None:
        for topic, (payload, properties) in self.simulator.broker.retained.items():
            self.link.publish(topic, payload, retain=True, wait_s=5, properties=properties)

    def release(self, package: SmallPackage) -> str:
        name = package.manifest.target_name
        self.simulator.release(name, package.manifest_bytes)
        for sha256, wire in package.wire.items():
            self.link.publish(topics.blob(sha256), wire, retain=True, wait_s=5)
        self.publish_metadata()
        return name

    def assign(self, counter: int, target: str, *, trial: str | None = None, key=None) -> None:
        now = datetime.now(timezone.utc)
        assignment = Assignment(
            device=DEVICE,
            counter=counter,
            target=target,
            issued=now.isoformat(timespec="seconds"),
            expires=(now + timedelta(days=1)).isoformat(timespec="seconds"),
            trial=trial,
        )
        signed = self.simulator.assign(assignment, key=key)
        self.link.publish(topics.assignment(DEVICE), signed, retain=True, wait_s=5)

    def close(self) -> None:
        self.link.close()


def write_config(directory: Path, host: Host) -> Path:
    """Writes a device's configuration and its initial root."""
    (directory / "1.root.json").write_bytes(host.simulator.roots[0])
    path = directory / "agent.toml"
    path.write_text(
        f'device = "{DEVICE}"\nprofile = "generic-x86-64"\nbroker = "{host.address}"\n'
        f'state_dir = "state"\nroot = "1.root.json"\ntimeout_s = 1\n'
        f"[measure]\nduration_s = 0.2\nenergy_s = 0.2\n"
    )
    return path


def real_package(directory: Path, version: str, *, wrong: bool = False) -> SmallPackage:
    """Makes a package with a real TFLite model; `wrong` golden outputs are not what it gives."""
    directory.mkdir(parents=True, exist_ok=True)
    model = write_model("tflite", directory, batch=1)
    rng = np.random.default_rng(int(version))
    one, two = (rng.random((4, WIDTH), dtype=np.float32) for _ in INPUTS)
    golden = directory / "golden.npz"
    np.savez(golden, in_0=one, in_1=two, out_0=one + two + float(wrong), out_1=one - two)
    return small_package(
        version,
        model=model.read_bytes(),
        golden=golden.read_bytes(),
        golden_count=4,
        inputs=_float32(*INPUTS),
        outputs=_float32("sum", "difference"),
    )


def _float32(*names: str) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=name, shape=(1, WIDTH), dtype="float32") for name in names)
