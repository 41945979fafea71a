"""Private keys: encrypted files, passphrases, and keys that are somewhere else."""

from __future__ import annotations

import importlib.util
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from hypothesis import given as given_values
from hypothesis import settings
from hypothesis import strategies as st

from support.repositories import Device
from trimtab.errors import RepositoryError
from trimtab.package import pkcs8
from trimtab.package.keys import KeySources, NewKey
from trimtab.package.passphrases import Passphrases, is_encrypted
from trimtab.package.rotation import Rotation
from trimtab.package.sign import Repository
from trimtab_agent.errors import CallerError


class Person:
    """Types what she knows; counts how often she is asked."""

    def __init__(self, *typed: str, chooses: str = "") -> None:
        self.typed = list(typed)
        self.chooses = chooses
        self.asked: list[str] = []

    def ask(self, what: str) -> str:
        self.asked.append(what)
        return self.typed.pop(0)

    def choose(self) -> str:
        self.asked.append("new")
        return self.chooses


def given(passphrase: str) -> KeySources:
    return KeySources(passphrases=Passphrases(passphrase))


def asking(person: Person) -> KeySources:
    return KeySources(passphrases=Passphrases(prompt=person))


@pytest.fixture(autouse=True, scope="module")
def cheap_guesses():
    """Nobody guesses here, and each of the many keys would take 0.2 s."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pkcs8, "SCRYPT_N", 2**4)
        yield


@pytest.fixture(scope="module")
def encrypted_once(cheap_guesses, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("encrypted") / "repo"
    Repository.init(path, sources=given("correct horse"))
    return path


@pytest.fixture
def encrypted(encrypted_once, tmp_path) -> Path:
    return Path(shutil.copytree(encrypted_once, tmp_path / "repo"))


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_offline_keys_are_encrypted_and_online_keys_are_not(encrypted):
    keys = {path.stem: path for path in (encrypted / "keys").glob("*.pem")}
    assert {name for name, path in keys.items() if is_encrypted(path.read_bytes())} == {
        "root",
        "targets",
    }
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys.values()} == {0o600}


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command")
def test_openssl_reads_an_encrypted_key(tmp_path, monkeypatch):
    monkeypatch.setattr(pkcs8, "SCRYPT_N", 2**14)
    pem = pkcs8.to_pem(Ed25519PrivateKey.generate(), "correct horse")
    (tmp_path / "key.pem").write_bytes(pem)
    command = ["openssl", "pkey", "-in", tmp_path / "key.pem", "-noout", "-passin"]
    assert subprocess.run([*command, "pass:correct horse"], check=False).returncode == 0
    wrong = subprocess.run([*command, "pass:wrong"], check=False, capture_output=True)
    assert wrong.returncode != 0


def test_a_person_is_asked_once_a_run(encrypted):
    person = Person("correct horse")
    sources = asking(person)
    for number in range(3):
        Repository.open(encrypted, sources=sources).add_target(f"demo-{number}.json", b"x")
    Repository.open(encrypted, sources=sources).ceremony.renew("root")
    assert person.asked == [f"passphrase of {encrypted}/keys/targets.pem"]


def test_nobody_is_asked_for_what_online_keys_do(encrypted):
    repository = Repository.open(encrypted, sources=asking(Person()))
    repository.refresh_timestamp()
    assert repository.orders.sign_message(b"payload", b"context")


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (given("wrong"), r"the passphrase given does not open .*targets\.pem: it is wrong, or"),
        (asking(Person("wrong")), r"wrong passphrase for .*targets\.pem, or .*; nothing was"),
        (KeySources(), r"targets\.pem is encrypted and its passphrase .*TRIMTAB_PASSPHRASE, or"),
    ],
)
@pytest.mark.parametrize(
    "act",
    [
        lambda repository: repository.ceremony.check_can_release(),
        lambda repository: repository.ceremony.renew("targets"),
        lambda repository: repository.ceremony.rotate(Rotation(role="assignment")),
    ],
)
def test_without_the_passphrase_nothing_changes(act, sources, message, encrypted):
    person = sources.passphrases._prompt
    typed = None if person is None else list(person.typed)
    before = contents(encrypted)
    with pytest.raises(RepositoryError, match=message):
        act(Repository.open(encrypted, sources=sources))
    assert {**before, encrypted / "lock": b""} == {**contents(encrypted), encrypted / "lock": b""}
    if person is not None:
        person.typed[:] = typed


def test_a_person_who_chooses_none_gets_unencrypted_keys(tmp_path):
    person = Person()
    Repository.init(tmp_path / "repo", sources=asking(person))
    assert person.asked == ["new"]
    assert not is_encrypted((tmp_path / "repo/keys/root.pem").read_bytes())


def test_a_new_key_is_encrypted_with_the_passphrase_chosen_for_it(encrypted):
    person = Person("correct horse", chooses="battery staple")
    repository = Repository.open(encrypted, sources=asking(person))
    repository.ceremony.rotate(Rotation(role="root"))
    Repository.open(encrypted, sources=given("battery staple")).ceremony.renew("root")


def test_the_status_says_what_is_encrypted(encrypted):
    guards = {
        key.name: key.encrypted
        for role in Repository.open(encrypted).ceremony.status().roles
        for key in role.keys
    }
    assert guards == {
        "root": True,
        "targets": True,
        "snapshot": False,
        "timestamp": False,
        "assignment": False,
    }


def write_pem(path: Path, key) -> Path:
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


def public_pem(key) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


@pytest.mark.parametrize("scheme", ["file", "file2"])
@pytest.mark.parametrize(
    "make", [Ed25519PrivateKey.generate, lambda: ec.generate_private_key(ec.SECP256R1())]
)
def test_a_key_elsewhere_is_used_by_its_uri(make, scheme, tmp_path):
    repository = Repository.init(tmp_path / "repo")
    device = Device(tmp_path / "device", repository.root)
    for role in ("root", "timestamp"):
        path = write_pem(tmp_path / f"{role}-elsewhere.pem", make())
        new = NewKey(name=f"token-{role}", uri=f"{scheme}:{path}")
        repository.ceremony.rotate(Rotation(role=role, add=new, remove=[role]))
    device.update(repository)
    (key,) = repository.ceremony.status().roles[3].keys
    assert (key.name, key.uri) == ("token-timestamp", f"{scheme}:{path}")
    with pytest.raises(CallerError, match="is the timestamp key 'token-timestamp' already"):
        repository.ceremony.rotate(Rotation(role="targets", add=NewKey(uri=f"{scheme}:{path}")))


def test_an_assignment_key_may_be_elsewhere_if_it_is_ed25519(tmp_path):
    repository = Repository.init(tmp_path / "repo")
    path = write_pem(tmp_path / "one.pem", Ed25519PrivateKey.generate())
    new = NewKey(name="online", uri=f"file2:{path}")
    repository.ceremony.rotate(Rotation(role="assignment", add=new, revoke=True))
    assert repository.orders.sign_message(b"payload", b"context")
    path = write_pem(tmp_path / "two.pem", ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(CallerError, match="an assignment key must be an Ed25519 key"):
        repository.ceremony.rotate(Rotation(role="assignment", add=NewKey(uri=f"file2:{path}")))


@pytest.mark.skipif(importlib.util.find_spec("pkcs11") is not None, reason="python-pkcs11 is here")
def test_a_token_without_its_library_says_what_to_install(tmp_path):
    repository = Repository.init(tmp_path / "repo")
    public = public_pem(ec.generate_private_key(ec.SECP256R1()))
    new = NewKey(name="yubikey", uri="hsm:2?label=YubiKey", public_key=public)
    outcome = repository.ceremony.rotate(Rotation(role="root", add=new, threshold=2))
    assert any(
        "'yubikey' (hsm:2?label=YubiKey) cannot sign as 'root': 'python-pkcs11' required; install "
        "it with: pip install 'securesystemslib[hsm]'" in line
        for line in outcome.waiting
    )
    assert repository.root_version == 1


def test_an_online_key_that_cannot_sign_does_not_come_into_force(tmp_path):
    repository = Repository.init(tmp_path / "repo")
    public = public_pem(ec.generate_private_key(ec.SECP256R1()))
    new = NewKey(name="token", uri="gcpkms:projects/p/locations/l/keyRings/r", public_key=public)
    outcome = repository.ceremony.rotate(Rotation(role="timestamp", add=new, remove=["timestamp"]))
    assert "'token' (gcpkms:projects" in outcome.waiting[0]
    assert repository.root_version == 1
    repository.refresh_timestamp()


@pytest.mark.parametrize(
    ("new", "message"),
    [
        (NewKey(uri="usb:1"), r"'usb:1' is no key URI: its scheme must be one of .*file.*hsm"),
        (NewKey(uri="hsm:2"), "hsm:2: its public key is needed too: --public-key FILE.pem"),
        (NewKey(uri="hsm:2", public_key=b"x"), "the public key cannot be read as PEM"),
        (NewKey(uri="file:/nowhere/x.pem"), r"/nowhere/x\.pem is missing"),
    ],
)
def test_a_uri_that_cannot_be_used_is_refused(new, message, tmp_path):
    repository = Repository.init(tmp_path / "repo")
    with pytest.raises(CallerError, match=message):
        repository.ceremony.rotate(Rotation(role="root", add=new))


def test_a_public_key_that_does_not_fit_is_noticed_when_it_signs(tmp_path):
    path = write_pem(tmp_path / "elsewhere.pem", Ed25519PrivateKey.generate())
    public = public_pem(Ed25519PrivateKey.generate())
    repository = Repository.init(tmp_path / "repo")
    new = NewKey(name="other", uri=f"file:{path}", public_key=public)
    with pytest.raises(
        RepositoryError, match=r"elsewhere\.pem holds another key than the root key"
    ):
        repository.ceremony.rotate(Rotation(role="root", add=new, threshold=2))
    assert repository.ceremony.status().staged == ()


def test_a_damaged_list_of_signers_is_noticed(tmp_path):
    repository = Repository.init(tmp_path / "repo")
    (tmp_path / "repo/keys/signers.json").write_text("{")
    with pytest.raises(RepositoryError, match=r"signers\.json cannot be read"):
        repository.ceremony.status()


@given_values(st.text(min_size=1, max_size=40).filter(lambda text: "\0" not in text))
@settings(max_examples=30, deadline=None)
def test_every_passphrase_opens_what_it_closed_and_no_other_does(passphrase):
    key = Ed25519PrivateKey.generate()
    pem = pkcs8.to_pem(key, passphrase)
    opened = load_pem_private_key(pem, passphrase.encode())
    assert isinstance(opened, Ed25519PrivateKey)
    assert opened.private_bytes_raw() == key.private_bytes_raw()
    with pytest.raises(ValueError, match=r"."):
        load_pem_private_key(pem, passphrase.encode() + b"x")
