"""The signing repository, judged by python-tuf's own client."""

from __future__ import annotations

import shutil
import stat
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadHTTPError,
    ExpiredMetadataError,
    UnsignedMetadataError,
)
from tuf.ngclient import FetcherInterface, Updater

from support.tuf_simulator import believe
from trimtab.errors import RepositoryError
from trimtab.package.metadata import EXPIRY_DAYS
from trimtab.package.sign import Repository
from trimtab.package.target_files import TargetFiles
from trimtab_agent.contract import codec
from trimtab_agent.contract.messages import (
    ASSIGNMENT_CONTEXT,
    ASSIGNMENT_KEYS_TARGET,
    Assignment,
    AssignmentKeys,
    Signed,
)
from trimtab_agent.errors import CallerError, DocumentMissingError
from trimtab_agent.trust import TrustStore


class DirectoryFetcher(FetcherInterface):
    """Serves a repository's directory; what is not there is a 404."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def _fetch(self, url):
        for folder in ("metadata", "targets"):
            path = self.directory / folder / url.rpartition("/")[2]
            if path.is_file():
                return iter([path.read_bytes()])
        raise DownloadHTTPError(f"{url} is not here", 404)


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self):
        self.now = datetime.now(timezone.utc).replace(microsecond=0)

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def repository(tmp_path, clock):
    return Repository.init(tmp_path / "repo", clock=clock)


@pytest.fixture
def client(tmp_path, repository):
    """Returns a function that makes a fresh client on the same device state."""
    (tmp_path / "device" / "targets").mkdir(parents=True)
    root = repository.root

    def make():
        return Updater(
            str(tmp_path / "device"),
            "x:",
            str(tmp_path / "device" / "targets"),
            "x:",
            fetcher=DirectoryFetcher(tmp_path / "repo"),
            bootstrap=root,
        )

    return make


def test_a_tuf_client_downloads_what_was_added(repository, client):
    repository.add_targets({"demo-1.json": b"one", "demo-2.json": b"two"})
    updater = client()
    for name, content in (("demo-1.json", b"one"), ("demo-2.json", b"two")):
        path = updater.download_target(updater.get_targetinfo(name))
        assert Path(path).read_bytes() == content
    assert updater.get_targetinfo("demo-3.json") is None


def test_the_client_follows_release_after_release(repository, client):
    for number in range(4):
        repository.add_target(f"demo-{number}.json", b"%d" % number)
        assert client().get_targetinfo(f"demo-{number}.json").length == 1


def test_an_old_timestamp_is_a_rollback(repository, client, tmp_path):
    timestamp = tmp_path / "repo" / "metadata" / "timestamp.json"
    old = timestamp.read_bytes()
    repository.add_target("demo-1.json", b"one")
    client().refresh()
    timestamp.write_bytes(old)
    with pytest.raises(BadVersionNumberError):
        client().refresh()


def test_metadata_by_another_repository_is_refused(client, tmp_path):
    other = Repository.init(tmp_path / "other")
    other.add_target("evil-1.json", b"evil")
    shutil.rmtree(tmp_path / "repo" / "metadata")
    shutil.copytree(tmp_path / "other" / "metadata", tmp_path / "repo" / "metadata")
    with pytest.raises(UnsignedMetadataError):
        client().refresh()


def test_expiries_are_those_of_the_table(repository, clock, tmp_path):
    for name, role in (
        ("1.root.json", "root"),
        ("1.targets.json", "targets"),
        ("1.snapshot.json", "snapshot"),
        ("timestamp.json", "timestamp"),
    ):
        expires = (clock.now + timedelta(days=EXPIRY_DAYS[role])).strftime('"%Y-%m-%dT%H:%M:%SZ"')
        assert f'"expires":{expires}' in (tmp_path / "repo" / "metadata" / name).read_text()


def test_a_frozen_repository_expires_and_refreshing_mends_it(repository, client, clock):
    clock.now -= timedelta(days=EXPIRY_DAYS["timestamp"] + 1)
    repository.refresh_timestamp()
    with pytest.raises(ExpiredMetadataError):
        client().refresh()
    clock.now += timedelta(days=EXPIRY_DAYS["timestamp"] + 1)
    repository.refresh_timestamp()
    client().refresh()


def test_the_snapshot_is_renewed_with_half_of_its_time_left(repository, client, clock, tmp_path):
    metadata = tmp_path / "repo" / "metadata"
    repository.refresh_timestamp()
    assert not (metadata / "2.snapshot.json").exists()
    clock.now += timedelta(days=16)
    repository.refresh_timestamp()
    assert (metadata / "2.snapshot.json").exists()
    client().refresh()


def test_a_refresh_is_due_after_half_of_the_time(repository, clock):
    assert not repository.needs_refresh
    clock.now += timedelta(days=EXPIRY_DAYS["timestamp"] / 2, seconds=1)
    assert repository.needs_refresh
    repository.refresh_timestamp()
    assert not repository.needs_refresh


def test_an_empty_directory_can_become_a_repository(tmp_path):
    (tmp_path / "empty").mkdir()
    Repository.init(tmp_path / "empty")
    assert Repository.open(tmp_path / "empty").root_version == 1


def test_documents_come_after_what_they_refer_to(repository):
    repository.add_target("demo-1.json", b"one")
    names = [name for name, _ in repository.documents()]
    assert names[-4:] == ["1.root.json", "2.targets.json", "2.snapshot.json", "timestamp.json"]
    assert set(names[:-4]) == set(repository.targets().values())
    assert all(len(name) == 64 for name in names[:-4])


def test_releasing_the_same_again_changes_nothing(repository, tmp_path):
    repository.add_target("demo-1.json", b"one")
    before = sorted((tmp_path / "repo" / "metadata").iterdir())
    repository.add_target("demo-1.json", b"one")
    assert sorted((tmp_path / "repo" / "metadata").iterdir()) == before


def test_a_release_cannot_be_changed(repository):
    repository.add_target("demo-1.json", b"one")
    with pytest.raises(CallerError, match=r"'demo-1\.json' is released already, with other"):
        repository.add_target("demo-1.json", b"two")
    assert repository.target("demo-1.json") == b"one"


@pytest.mark.parametrize("name", ["", "a/b.json", "../x.json", ".hidden"])
def test_a_name_that_is_no_file_name_is_refused(name, repository):
    with pytest.raises(CallerError, match="cannot name a TUF target"):
        repository.add_target(name, b"x")


@pytest.mark.parametrize("crashed_at", ["2.targets.json", "2.snapshot.json", "timestamp.json"])
def test_a_crash_before_the_timestamp_leaves_the_old_state(
    crashed_at, repository, client, monkeypatch
):
    from trimtab.package import redo

    write = redo.write_atomically

    def crash(path, data):
        if path.name.endswith(crashed_at):
            raise KeyboardInterrupt
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(redo, "write_atomically", crash)
        with pytest.raises(KeyboardInterrupt):
            repository.add_target("demo-1.json", b"one")
    assert client().get_targetinfo("demo-1.json") is None
    repository.add_target("demo-2.json", b"two")
    updater = client()
    assert updater.get_targetinfo("demo-1.json") is None
    assert updater.get_targetinfo("demo-2.json").length == 3


def test_keys_are_readable_by_their_owner_only(repository, tmp_path):
    keys = tmp_path / "repo" / "keys"
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in keys.iterdir()} == {
        f"{role}.pem": 0o600 for role in ("root", "targets", "snapshot", "timestamp", "assignment")
    }


def test_refreshing_needs_neither_the_root_nor_the_targets_key(repository, tmp_path):
    for role in ("root", "targets"):
        (tmp_path / "repo" / "keys" / f"{role}.pem").unlink()
    repository.refresh_timestamp()
    repository.orders.sign_assignment(repository_assignment())
    with pytest.raises(RepositoryError, match=r"targets\.pem is missing: signing as 'targets'"):
        repository.add_target("demo-1.json", b"one")


def repository_assignment():
    return Assignment(
        device="dev-1",
        counter=1,
        target="demo-1.json",
        issued="2026-11-22T00:00:00Z",
        expires="2026-12-22T00:00:00Z",
    )


def test_an_assignment_is_signed_by_a_listed_key(repository):
    signed = codec.decode(
        repository.orders.sign_assignment(repository_assignment()), Signed, what="it"
    )
    allowed = codec.decode(repository.target(ASSIGNMENT_KEYS_TARGET), AssignmentKeys, what="keys")
    (signature,) = signed.signatures
    key = Ed25519PublicKey.from_public_bytes(allowed.keys[signature.keyid])
    key.verify(signature.signature, ASSIGNMENT_CONTEXT + signed.payload)
    assert codec.decode(signed.payload, Assignment, what="payload") == repository_assignment()


def test_the_agent_believes_assignment_and_manifest(repository, clock, tmp_path):
    class BySha256:
        """Documents are named as on the broker: TUF targets by their bare SHA-256."""

        def read(self, name):
            for path in (tmp_path / "repo" / "targets").glob(f"{name}.*"):
                return iter([path.read_bytes()])
            try:
                return iter([(tmp_path / "repo" / "metadata" / name).read_bytes()])
            except FileNotFoundError as error:
                raise DocumentMissingError(name) from error

    repository.add_target("demo-1.json", b"one")
    message = repository.orders.sign_assignment(
        repository.orders.new_assignment("dev-1", "demo-1.json")
    )
    trust = TrustStore(tmp_path / "device", repository.root)
    assert trust.target(BySha256(), "demo-1.json") == b"one"
    assignment = believe(trust, BySha256(), message, device="dev-1", now=clock.now)
    assert (assignment.counter, assignment.target) == (1, "demo-1.json")


def test_counters_rise_by_device_and_survive(repository, tmp_path):
    repository.add_target("demo-1.json", b"one")
    for counter in (1, 2, 3):
        again = Repository.open(tmp_path / "repo")
        assert again.orders.new_assignment("dev-1", "demo-1.json").counter == counter
    assert repository.orders.new_assignment("dev-2", "demo-1.json").counter == 1


def test_an_assignment_says_when_it_ends(repository, clock):
    clock.now = datetime(2026, 11, 22, 10, tzinfo=timezone.utc)
    repository.add_target("demo-1.json", b"one")
    assignment = repository.orders.new_assignment("dev-1", "demo-1.json", trial="t7")
    assert assignment.issued == "2026-11-22T10:00:00Z"
    assert assignment.expires == "2026-12-22T10:00:00Z"
    assert assignment.trial == "t7"


def test_only_released_packages_are_assigned(repository):
    with pytest.raises(CallerError, match=r"'demo-1\.json' is not released here; .* none$"):
        repository.orders.new_assignment("dev-1", "demo-1.json")
    repository.add_target("demo-1.json", b"one")
    with pytest.raises(CallerError, match=r"'demo-2\.json' is .*; released are: demo-1\.json$"):
        repository.orders.new_assignment("dev-1", "demo-2.json")


def test_init_refuses_a_directory_in_use(repository, tmp_path):
    with pytest.raises(RepositoryError, match="is not empty"):
        Repository.init(tmp_path / "repo")


def test_a_failed_init_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(TargetFiles, "write", fail)
    with pytest.raises(KeyboardInterrupt):
        Repository.init(tmp_path / "repo")
    assert not list(tmp_path.iterdir())


def damage(name, data):
    def apply(directory):
        if data is None:
            (directory / name).unlink()
        else:
            (directory / name).write_bytes(data)

    return apply


@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (damage("metadata/timestamp.json", None), "is no signing repository"),
        (damage("metadata/timestamp.json", b"{"), r"timestamp\.json is no TUF metadata"),
        (damage("metadata/1.snapshot.json", None), r"cannot read .*1\.snapshot\.json: No such"),
        (damage("metadata/1.targets.json", b"{}"), r"1\.targets\.json is no TUF metadata"),
    ],
)
def test_a_damaged_repository_is_not_opened(apply, message, repository, tmp_path):
    apply(tmp_path / "repo")
    with pytest.raises(RepositoryError, match=message):
        Repository.open(tmp_path / "repo")


def test_metadata_of_another_role_is_noticed(repository, tmp_path):
    metadata = tmp_path / "repo" / "metadata"
    shutil.copy(metadata / "1.root.json", metadata / "timestamp.json")
    with pytest.raises(RepositoryError, match=r"timestamp\.json is not of the role timestamp"):
        Repository.open(tmp_path / "repo")


def test_a_damaged_target_is_noticed(repository, tmp_path):
    repository.add_target("demo-1.json", b"one")
    (path,) = (tmp_path / "repo" / "targets").glob("*.demo-1.json")
    path.write_bytes(b"two")
    with pytest.raises(RepositoryError, match="has other bytes than were signed"):
        repository.target("demo-1.json")


def test_keys_of_another_kind_are_refused(repository, tmp_path):
    path = tmp_path / "repo" / "keys" / "timestamp.pem"
    path.write_bytes(b"no key")
    with pytest.raises(RepositoryError, match=r"timestamp\.pem cannot be read as a private key"):
        repository.refresh_timestamp()
    path.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    with pytest.raises(RepositoryError, match="is no Ed25519 key but a EC"):
        repository.refresh_timestamp()


def test_broken_counters_are_the_repositorys_fault(repository, tmp_path):
    repository.add_target("demo-1.json", b"one")
    (tmp_path / "repo" / "counters.sqlite").write_bytes(b"no database " * 100)
    with pytest.raises(RepositoryError, match=r"counters\.sqlite cannot keep counters"):
        repository.orders.new_assignment("dev-1", "demo-1.json")
