"""Keys change, and devices follow: judged by the agent's own trust store."""

from __future__ import annotations

import shutil
from datetime import datetime, timezone
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Timestamp

from support.repositories import Device, PublishedDocuments
from trimtab.package.keys import NewKey
from trimtab.package.rotation import Rotation
from trimtab.package.sign import Repository
from trimtab_agent.errors import CallerError, NetworkError, TrustError

TUF_ROLES = ("root", "targets", "snapshot", "timestamp")


@pytest.fixture
def repository(tmp_path) -> Repository:
    repository = Repository.init(tmp_path / "repo")
    repository.add_target("demo-1.json", b"one")
    return repository


@pytest.fixture
def new_device(tmp_path, repository):
    """Makes devices that trust the first root, whatever came after it."""
    numbers = iter(range(100))

    def make() -> Device:
        return Device(tmp_path / f"device-{next(numbers)}", repository.root)

    return make


def signer_of(repository_path: Path, name: str) -> CryptoSigner:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    pem = (repository_path / "keys" / f"{name}.pem").read_bytes()
    return CryptoSigner(load_pem_private_key(pem, None))


@pytest.mark.parametrize("role", TUF_ROLES)
def test_devices_follow_a_rotated_key_again_and_again(role, repository, new_device):
    awake, asleep = new_device(), new_device()
    awake.update(repository)
    asleep.update(repository)
    for number in (2, 3, 4):
        outcome = repository.ceremony.rotate(Rotation(role=role))
        assert outcome.in_force[0] == f"{number}.root.json"
        assert outcome.waiting == ()
        repository.add_target(f"demo-{number}.json", b"more")
        awake.update(repository)
    for device in (awake, asleep, new_device()):
        assert device.target(repository, "demo-1.json") == b"one"
        assert device.target(repository, "demo-4.json") == b"more"


def test_every_role_rotates_one_after_the_other(repository, new_device):
    asleep = new_device()
    asleep.update(repository)
    for role in (*TUF_ROLES, "assignment"):
        repository.ceremony.rotate(Rotation(role=role))
    assert asleep.target(repository, "demo-1.json") == b"one"


def forged_timestamp(repository: Repository, signer: CryptoSigner) -> PublishedDocuments:
    """What someone with a stolen timestamp key can publish: a newer timestamp."""
    published = PublishedDocuments(repository)
    metadata = Metadata[Timestamp].from_bytes(published.documents["timestamp.json"])
    metadata.signed.version += 1
    metadata.sign(signer)
    published.documents["timestamp.json"] = metadata.to_bytes()
    return published


def test_an_old_timestamp_key_is_refused_once_a_device_knows_of_it(
    repository, new_device, tmp_path
):
    stolen = signer_of(tmp_path / "repo", "timestamp")
    device = new_device()
    device.update(forged_timestamp(repository, stolen))
    repository.ceremony.rotate(Rotation(role="timestamp"))
    with pytest.raises(TrustError, match="timestamp was signed by 0/1 keys"):
        device.update(forged_timestamp(repository, stolen))
    device.update(repository)


def test_an_old_root_key_signs_no_further_root(repository, new_device, tmp_path):
    stolen = signer_of(tmp_path / "repo", "root")
    repository.ceremony.rotate(Rotation(role="root"))
    device = new_device()
    device.update(repository)
    published = PublishedDocuments(repository)
    metadata = Metadata[Root].from_bytes(published.documents["2.root.json"])
    metadata.signed.version = 3
    metadata.sign(stolen)
    published.documents["3.root.json"] = metadata.to_bytes()
    with pytest.raises(TrustError, match="root was signed by 0/1 keys"):
        device.update(published)


def test_devices_recover_from_versions_that_a_thief_drove_up(repository, new_device, tmp_path):
    """TUF specification, section 5.3.11: what the old keys signed is forgotten."""
    snapshot_key = signer_of(tmp_path / "repo", "snapshot")
    timestamp_key = signer_of(tmp_path / "repo", "timestamp")
    device = new_device()
    device.update(repository)
    published = PublishedDocuments(repository)
    timestamp = Metadata[Timestamp].from_bytes(published.documents["timestamp.json"])
    version = timestamp.signed.snapshot_meta.version
    snapshot = Metadata[Snapshot].from_bytes(published.documents[f"{version}.snapshot.json"])
    snapshot.signed.version = timestamp.signed.version = 10**9
    snapshot.signed.meta["targets.json"] = MetaFile(10**9)
    snapshot.sign(snapshot_key)
    published.documents["1000000000.snapshot.json"] = snapshot.to_bytes()
    timestamp.signed.snapshot_meta = MetaFile(10**9)
    timestamp.sign(timestamp_key)
    published.documents["timestamp.json"] = timestamp.to_bytes()
    with pytest.raises(NetworkError, match=r"1000000000\.targets\.json was not published"):
        device.update(published)
    with pytest.raises(TrustError, match="version"):
        device.update(repository)
    repository.ceremony.rotate(Rotation(role="timestamp"))
    repository.ceremony.rotate(Rotation(role="snapshot"))
    device.update(repository)
    repository.add_target("demo-2.json", b"two")
    assert device.target(repository, "demo-2.json") == b"two"


def test_devices_recover_from_a_backup_that_was_older_than_they(repository, new_device, tmp_path):
    device = new_device()
    shutil.copytree(tmp_path / "repo" / "metadata", tmp_path / "backup")
    for number in range(2, 5):
        repository.add_target(f"demo-{number}.json", b"later")
    device.update(repository)
    shutil.rmtree(tmp_path / "repo" / "metadata")
    shutil.copytree(tmp_path / "backup", tmp_path / "repo" / "metadata")
    with pytest.raises(TrustError, match="version"):
        device.update(repository)
    for role in ("timestamp", "snapshot"):
        repository.ceremony.rotate(Rotation(role=role))
    assert device.target(repository, "demo-1.json") == b"one"
    repository.add_target("demo-2.json", b"another")
    assert device.target(repository, "demo-2.json") == b"another"


def now() -> datetime:
    return datetime.now(timezone.utc)


def assign(repository: Repository) -> bytes:
    return repository.orders.sign_assignment(
        repository.orders.new_assignment("dev-1", "demo-1.json")
    )


def test_an_assignment_key_changes_with_a_time_of_grace(repository, new_device, tmp_path):
    before = assign(repository)
    repository.ceremony.rotate(Rotation(role="assignment"))
    device = new_device()
    assert device.accepts(repository, before, device="dev-1", now=now())
    (tmp_path / "repo" / "keys" / "assignment.pem").unlink()
    assert device.accepts(repository, assign(repository), device="dev-1", now=now())
    repository.ceremony.rotate(Rotation(role="assignment", remove=["assignment"]))
    with pytest.raises(TrustError, match="no good signature"):
        device.accepts(repository, before, device="dev-1", now=now())
    assert device.accepts(repository, assign(repository), device="dev-1", now=now())


def test_a_revoked_assignment_key_is_void_at_once(repository, new_device):
    before = assign(repository)
    repository.ceremony.rotate(Rotation(role="assignment", revoke=True))
    with pytest.raises(TrustError, match="no good signature"):
        new_device().accepts(repository, before, device="dev-1", now=now())
    assert new_device().accepts(repository, assign(repository), device="dev-1", now=now())


def test_thresholds_change_with_the_keys(repository, new_device):
    repository.ceremony.rotate(Rotation(role="root", add=NewKey(name="carol")))
    repository.ceremony.rotate(Rotation(role="root", add=NewKey(name="dave"), threshold=2))
    repository.ceremony.rotate(Rotation(role="root", remove=["root"]))
    root = repository.ceremony.status().roles[0]
    assert ([key.name for key in root.keys], root.threshold) == (["carol", "dave"], 2)
    new_device().update(repository)


@pytest.mark.parametrize(
    ("rotation", "message"),
    [
        (Rotation(role="mirrors"), "'mirrors' is no role: take one of root, targets"),
        (Rotation(role="root", remove=["root"]), "0 keys and a threshold of 1"),
        (Rotation(role="root", threshold=2), "1 keys and a threshold of 2"),
        (Rotation(role="root", remove=["bob"]), "'root' has no key 'bob'; it has root"),
        (Rotation(role="root", revoke=True), "--revoke is for the assignment key"),
        (Rotation(role="root", add=NewKey(name="timestamp")), "a key 'timestamp' already"),
        (Rotation(role="root", add=NewKey(name="../x")), "cannot name a key"),
        (Rotation(role="assignment", threshold=1), "has no threshold"),
        (Rotation(role="assignment", remove=["assignment"]), "last assignment key"),
        (Rotation(role="assignment", remove=["x"]), "'assignment' has no key 'x'"),
    ],
)
def test_a_change_that_cannot_be_is_refused(rotation, message, repository, tmp_path):
    before = sorted((tmp_path / "repo").rglob("*"))
    with pytest.raises(CallerError, match=message):
        repository.ceremony.rotate(rotation)
    assert sorted((tmp_path / "repo").rglob("*")) == before


def test_which_of_several_keys_is_replaced_must_be_said(repository):
    repository.ceremony.rotate(Rotation(role="root", add=NewKey()))
    with pytest.raises(CallerError, match=r"several keys: say which .* of root, root-2"):
        repository.ceremony.rotate(Rotation(role="root"))


@pytest.mark.parametrize("role", ["root", "targets"])
def test_offline_metadata_gets_a_fresh_expiry(role, repository, new_device):
    version = {r.role: r.version for r in repository.ceremony.status().roles}[role]
    repository.ceremony.renew(role)
    assert {r.role: r.version for r in repository.ceremony.status().roles}[role] == version + 1
    new_device().update(repository)
