"""A whole repository in memory that can be made wrong on purpose, and a broker that serves it.

Built on TUF's own metadata API, in the manner of python-tuf's `tests/repository_simulator.py`:
tests change the metadata (`simulator.timestamp.expires = ...`), publish, and look at what the
client makes of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    TOP_LEVEL_ROLE_NAMES,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from trimtab_agent.contract import codec, topics
from trimtab_agent.contract.messages import (
    ASSIGNMENT_CONTEXT,
    ASSIGNMENT_KEYS_TARGET,
    Assignment,
    AssignmentKeys,
    Signature,
    Signed,
)
from trimtab_agent.trust import TrustStore


def believe(trust: TrustStore, documents, signed: bytes, *, device: str, now) -> Assignment:
    """Returns the assignment in a signed message, as `adapters.PackageSource` does."""
    payload = trust.payload(
        documents,
        signed,
        what="the assignment",
        context=ASSIGNMENT_CONTEXT,
        device=device,
        now=now,
    )
    return codec.decode(payload, Assignment, what="the assignment's payload")


class RetainedBroker:
    """Retained messages in memory, with the two methods of `window.Subscriber`."""

    def __init__(self) -> None:
        self.retained: dict[str, tuple[bytes, dict[str, str]]] = {}
        self.open: set[str] = set()
        self.asked: list[str] = []
        self.most_open = 0

    def subscribe_many(self, names: Sequence[str], handler) -> None:
        self.asked += names
        self.open |= set(names)
        self.most_open = max(self.most_open, len(self.open))
        for name in names:
            if name in self.retained:
                payload, properties = self.retained[name]
                handler(name, payload, properties)

    def unsubscribe(self, *names: str) -> None:
        self.open -= set(names)

    def publish_document(self, name: str, data: bytes, *, part_bytes: int = 1000) -> None:
        parts = max(1, -(-len(data) // part_bytes))
        for part in range(parts):
            piece = data[part * part_bytes : (part + 1) * part_bytes]
            self.retained[topics.document(name, part)] = piece, {"parts": str(parts)}


class TufSimulator:
    """The repository: `root`, `timestamp`, `snapshot`, `targets` and the keys are plain values."""

    def __init__(self) -> None:
        self.broker = RetainedBroker()
        self.signers = {role: [CryptoSigner.generate_ed25519()] for role in TOP_LEVEL_ROLE_NAMES}
        expires = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(days=30)
        self.root = Root(expires=expires, consistent_snapshot=True)
        for role, signers in self.signers.items():
            self.root.add_key(signers[0].public_key, role)
        self.targets = Targets(expires=expires)
        self.snapshot = Snapshot(expires=expires)
        self.timestamp = Timestamp(expires=expires)
        self.contents: dict[str, bytes] = {}
        self.roots: list[bytes] = []
        self.assignment_key = Ed25519PrivateKey.generate()
        self.add_target(ASSIGNMENT_KEYS_TARGET, codec.encode(self._assignment_keys()))
        self.publish_root()
        self.publish()

    def _assignment_keys(self) -> AssignmentKeys:
        return AssignmentKeys(keys={self.assignment_keyid: self._raw_assignment_key})

    @property
    def _raw_assignment_key(self) -> bytes:
        return self.assignment_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @property
    def assignment_keyid(self) -> str:
        return hashlib.sha256(self._raw_assignment_key).hexdigest()

    def sign(self, role: str, signed) -> bytes:
        metadata = Metadata(signed)
        for signer in self.signers[role]:
            metadata.sign(signer, append=True)
        return metadata.to_bytes()

    def publish_root(self) -> None:
        self.roots.append(self.sign("root", self.root))
        self.broker.publish_document(f"{self.root.version}.root.json", self.roots[-1])
        self.broker.retained[topics.ROOT_VERSION] = str(self.root.version).encode(), {}

    def add_target(self, name: str, data: bytes) -> None:
        self.targets.targets[name] = TargetFile.from_data(name, data, ["sha256"])
        self.contents[name] = data

    def release(self, name: str, data: bytes) -> None:
        """Adds a target and publishes everything with new versions."""
        self.add_target(name, data)
        for role in (self.targets, self.snapshot, self.timestamp):
            role.version += 1
        self.publish()

    def publish(self) -> None:
        """Signs targets, snapshot and timestamp as they are and publishes them."""
        for data in self.contents.values():
            self.broker.publish_document(hashlib.sha256(data).hexdigest(), data)
        self.broker.publish_document(
            f"{self.targets.version}.targets.json", self.sign("targets", self.targets)
        )
        self.snapshot.meta["targets.json"] = MetaFile(self.targets.version)
        snapshot = self.sign("snapshot", self.snapshot)
        self.broker.publish_document(f"{self.snapshot.version}.snapshot.json", snapshot)
        self.timestamp.snapshot_meta = MetaFile.from_data(
            self.snapshot.version, snapshot, ["sha256"]
        )
        self.broker.publish_document("timestamp.json", self.sign("timestamp", self.timestamp))

    def replace_assignment_key(self) -> None:
        """Lists a new key for assignments in place of the old one."""
        self.assignment_key = Ed25519PrivateKey.generate()
        self.release(ASSIGNMENT_KEYS_TARGET, codec.encode(self._assignment_keys()))

    def documents(self) -> dict[str, bytes]:
        """Returns everything that was published, by document name."""
        parts: dict[str, list[tuple[int, bytes]]] = {}
        for topic, (payload, _) in self.broker.retained.items():
            *_, name, part = topic.split("/")
            if part.isdigit():
                parts.setdefault(name, []).append((int(part), payload))
        return {name: b"".join(data for _, data in sorted(got)) for name, got in parts.items()}

    def assign(self, assignment: Assignment, *, key: Ed25519PrivateKey | None = None) -> bytes:
        """Returns a signed assignment; `key` signs in place of the right one."""
        payload = codec.encode(assignment)
        signature = (key or self.assignment_key).sign(ASSIGNMENT_CONTEXT + payload)
        entry = Signature(keyid=self.assignment_keyid, signature=signature)
        return codec.encode(Signed(payload=payload, signatures=(entry,)))
