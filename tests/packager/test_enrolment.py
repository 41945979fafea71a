"""Tokens and certificates: who gets one, who does not, and what repeats."""

from __future__ import annotations

import base64
import hashlib
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from support.identity import ROOT, utc_now
from trimtab.errors import RepositoryError
from trimtab.fleet.authority import DEVICE_LIFETIME, Authority
from trimtab.fleet.broker_address import BrokerAddress
from trimtab.fleet.enrolment import Enrolment
from trimtab.fleet.gatekeeper import Gatekeeper, Needed
from trimtab.fleet.registry import Registry
from trimtab_agent.contract import codec
from trimtab_agent.contract.enrolment import EnrolmentRequest, decode_token, encode_token
from trimtab_agent.errors import CallerError, StorageError

BROKER, ENROLMENT = "mqtts://plant.local:8883", "mqtts://plant.local:8884"


class Office:
    """An authority with its register, and a clock to turn."""

    def __init__(self, path) -> None:
        self.now = utc_now()
        self.authority = Authority.open(path)
        self.registry = Registry(path / "register.sqlite")
        self.enrolment = self.reopened()

    def reopened(self) -> Enrolment:
        """As after a restart of the host."""
        return Enrolment(self.authority, self.registry, ROOT, now=lambda: self.now)

    def token(self, device="dev-a", valid=timedelta(hours=1)):
        return self.enrolment.new_token(device, valid, broker=BROKER, enrolment=ENROLMENT)[0]

    def later(self, **by) -> None:
        self.now += timedelta(**by)


@pytest.fixture
def office(tmp_path):
    return Office(tmp_path / "identity")


def new_key():
    return ec.generate_private_key(ec.SECP256R1())


def request(device="dev-a", key=None, names=None) -> bytes:
    key = key or new_key()
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names or [device]]
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    return wrapped(csr.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def wrapped(pem: bytes) -> bytes:
    return codec.encode(EnrolmentRequest(csr=pem.decode()))


def certificate_in(answer) -> x509.Certificate:
    assert answer.refusal is None
    return x509.load_pem_x509_certificate(answer.certificate.encode())


def test_a_token_gets_a_certificate_that_names_its_device(office):
    token, key = office.token(), new_key()
    answer = office.enrolment.enrol(token.id, request(key=key))
    certificate = certificate_in(answer)
    certificate.verify_directly_issued_by(office.authority.certificate)
    assert certificate.subject.rfc4514_string() == "CN=dev-a"
    assert certificate.public_key() == key.public_key()
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert certificate.not_valid_after_utc - office.now <= DEVICE_LIFETIME
    assert hashlib.sha256(answer.root).digest() == token.root_sha256


def test_a_lost_answer_is_given_again_to_the_same_key_and_to_no_other(office):
    token, key = office.token(), new_key()
    first = office.enrolment.enrol(token.id, request(key=key))
    again = office.reopened().enrol(token.id, request(key=key))
    assert again == first
    other = office.enrolment.enrol(token.id, request())
    assert other.certificate is None
    assert "was used by another key" in other.refusal
    assert len(office.registry.certificates("dev-a")) == 1


def die(_certificate) -> None:
    raise KeyboardInterrupt


def test_a_host_that_dies_before_it_signs_has_bound_the_token(office, monkeypatch):
    token, key = office.token(), new_key()
    monkeypatch.setattr(office.registry, "add_certificate", die)
    with pytest.raises(KeyboardInterrupt):
        office.enrolment.enrol(token.id, request(key=key))
    monkeypatch.undo()
    assert "another key" in office.reopened().enrol(token.id, request()).refusal
    assert office.reopened().enrol(token.id, request(key=key)).certificate


def test_the_same_key_with_a_second_token_uses_that_token_up(office):
    key, one, two = new_key(), office.token(), office.token()
    first = office.enrolment.enrol(one.id, request(key=key))
    assert office.enrolment.enrol(two.id, request(key=key)).certificate == first.certificate
    assert "another key" in office.enrolment.enrol(two.id, request()).refusal


def rsa_request() -> bytes:
    return request(key=rsa.generate_private_key(65537, 1024))


def forged_request() -> bytes:
    csr = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dev-a")])
    )
    signed = bytearray(
        csr.sign(new_key(), hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    )
    signed[-1] ^= 1
    return wrapped(x509.load_der_x509_csr(bytes(signed)).public_bytes(serialization.Encoding.PEM))


def request_of_version_16() -> bytes:
    pem = codec.decode(request(), EnrolmentRequest, what="it").csr.encode()
    der = x509.load_pem_x509_csr(pem).public_bytes(serialization.Encoding.DER)
    changed = der.replace(b"\x02\x01\x00", b"\x02\x01\x0f", 1)
    body = base64.encodebytes(changed).decode()
    armour = "CERTIFICATE REQUEST-----\n"
    return wrapped(f"-----BEGIN {armour}{body}-----END {armour}".encode())


BAD_REQUESTS = {
    "a version that is not there": (request_of_version_16, "not a valid CSR version"),
    "nothing": (lambda: b"", "cannot be read"),
    "no JSON": (lambda: b"\xff\x00", "cannot be read"),
    "no request": (lambda: wrapped(b"hello"), "cannot be read"),
    "a torn request": (lambda: request()[:200], "cannot be read"),
    "too long": (lambda: bytes(9000), "at most 8192"),
    "another device": (lambda: request("dev-b"), "is for 'dev-b', not for 'dev-a'"),
    "the host": (lambda: request("trimtab-host"), "is for 'trimtab-host'"),
    "two names": (lambda: request(names=["dev-a", "trimtab-host"]), "is for 'dev-a', 'trimtab-ho"),
    "a short RSA key": (rsa_request, "only ECDSA on P-256"),
    "another curve": (
        lambda: request(key=ec.generate_private_key(ec.SECP384R1())),
        "only ECDSA on P-256",
    ),
    "another's signature": (forged_request, "not signed by the key"),
}


def test_a_bad_request_is_refused_and_leaves_the_token_unused(office):
    token = office.token()
    for name, (make, why) in BAD_REQUESTS.items():
        answer = office.enrolment.enrol(token.id, make())
        assert answer.certificate is None, name
        assert answer.root is None, name
        assert why in answer.refusal, name
    assert office.registry.certificates() == []
    assert office.enrolment.enrol(token.id, request()).certificate


def test_an_expired_token_is_refused_even_to_the_key_that_used_it(office):
    token, key = office.token(valid=timedelta(minutes=5)), new_key()
    assert office.enrolment.enrol(token.id, request(key=key)).certificate
    office.later(minutes=6)
    assert "has expired" in office.enrolment.enrol(token.id, request(key=key)).refusal


def test_an_unknown_token_is_refused(office):
    assert "is unknown" in office.enrolment.enrol("t0", request()).refusal


def test_a_renewal_gives_another_certificate_and_repeats_for_the_same_key(office):
    first = certificate_in(office.enrolment.enrol(office.token().id, request()))
    office.later(days=300)
    key = new_key()
    answer = office.enrolment.renew("dev-a", request(key=key))
    assert certificate_in(answer).not_valid_after_utc > first.not_valid_after_utc
    assert answer.root is None
    assert office.enrolment.renew("dev-a", request(key=key)) == answer
    assert "is for 'dev-b'" in office.enrolment.renew("dev-a", request("dev-b")).refusal
    assert "can renew it from" in office.enrolment.renew("dev-a", request()).refusal
    assert len(office.registry.certificates("dev-a")) == 2


@pytest.mark.parametrize("why", ["revoked", "expired", "never there"])
def test_a_device_without_a_certificate_in_force_cannot_renew(office, why):
    if why != "never there":
        office.enrolment.enrol(office.token().id, request())
    if why == "revoked":
        office.registry.revoke("dev-a", office.now)
    office.later(days=400 if why == "expired" else 0)
    assert "no certificate in force" in office.enrolment.renew("dev-a", request()).refusal


def test_revoking_ends_certificates_and_tokens_until_there_is_a_new_token(office):
    token, key = office.token(), new_key()
    office.enrolment.enrol(token.id, request(key=key))
    count, _ = office.registry.revoke("dev-a", office.now)
    assert count == 2
    assert office.registry.revoke("dev-a", office.now)[0] == 0
    assert "has expired" in office.enrolment.enrol(token.id, request(key=key)).refusal
    assert office.enrolment.enrol(office.token().id, request()).certificate
    assert [bool(one.revoked) for one in office.registry.certificates()] == [True, False]


@pytest.mark.parametrize("device", ["trimtab-host", "a/b", "a+b", "#", "", "a" * 65, "ä"])
def test_a_token_is_for_a_device_only(office, device):
    with pytest.raises(CallerError, match="device id"):
        office.token(device)


@pytest.mark.parametrize("valid", [timedelta(0), timedelta(days=31), timedelta(seconds=-1)])
def test_a_token_is_valid_for_a_sensible_time(office, valid):
    with pytest.raises(CallerError, match="up to 30 days"):
        office.token(valid=valid)


def test_a_token_survives_pasting(office):
    token = office.token()
    text = encode_token(token)
    pasted = "  " + text[:70] + "\n" + text[70:] + "\r\n"
    assert decode_token(pasted) == token


@pytest.mark.parametrize("cut", ["", "trimtab1.", "hello", 40, -1, "changed"])
def test_a_damaged_token_is_refused(office, cut):
    text = encode_token(office.token())
    if cut == "changed":
        text = text[:50] + ("A" if text[50] != "A" else "B") + text[51:]
    else:
        text = cut if isinstance(cut, str) else text[:cut]
    with pytest.raises(CallerError, match=r"no enrolment token|damaged or not whole"):
        decode_token(text)


def test_no_secret_is_kept(office, tmp_path):
    token = office.token()
    for file in tmp_path.rglob("*"):
        assert file.is_dir() or token.secret.encode() not in file.read_bytes()
    modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "identity").iterdir()}
    assert modes["ca.key"] == modes["register.sqlite"] == 0o600


def test_the_gatekeeper_says_what_the_broker_needs(office):
    keeper = Gatekeeper(office.authority, office.registry, ("127.0.0.1",), 8884)
    tls = keeper.write_all(office.now)
    assert keeper.look(tls, office.now) is Needed.NOTHING
    token = office.token(valid=timedelta(minutes=5))
    assert keeper.look(tls, office.now) is Needed.RELOAD
    assert tls.passwords.read_text().startswith(f"{token.id}:$7$101$")
    office.enrolment.enrol(token.id, request())
    assert keeper.look(tls, office.now) is Needed.NOTHING
    office.later(minutes=6)
    assert keeper.look(tls, office.now) is Needed.RELOAD
    assert tls.passwords.read_text() == ""
    office.registry.revoke("dev-a", office.now)
    assert keeper.look(tls, office.now) is Needed.RESTART
    crl = x509.load_pem_x509_crl(tls.revoked.read_bytes())
    assert [one.serial_number for one in crl] == [
        one.serial for one in office.registry.certificates()
    ]
    office.later(days=400)
    assert keeper.look(tls, office.now) is Needed.RELOAD  # it has expired; the server's is new
    assert list(x509.load_pem_x509_crl(tls.revoked.read_bytes())) == []
    assert keeper.look(tls, office.now) is Needed.NOTHING
    office.later(days=300)
    assert keeper.look(tls, office.now) is Needed.RELOAD


def test_certificates_of_broker_and_host_are_renewed_in_time(office):
    names = ("plant.local", "192.168.1.5")
    server, made = office.authority.server_files(names, office.now)
    first = server.certificate.read_bytes()
    assert made
    assert not office.authority.server_files(names, office.now)[1]
    assert not office.authority.server_files(names, office.now + timedelta(days=240))[1]
    assert office.authority.server_files(names, office.now + timedelta(days=245))[1]
    assert office.authority.server_files((*names, "::1"), office.now)[1]
    server.certificate.write_bytes(first[:100])
    assert office.authority.server_files(names, office.now)[1]
    host = office.authority.host_files(office.now)
    subject = x509.load_pem_x509_certificate(host.certificate.read_bytes()).subject
    assert subject.rfc4514_string() == "CN=trimtab-host"
    assert host.key.stat().st_mode & 0o777 == 0o600


def test_an_authority_is_opened_again_and_never_replaced(tmp_path):
    first = Authority.open(tmp_path)
    assert Authority.open(tmp_path).certificate == first.certificate
    key = (tmp_path / "ca.key").read_bytes()
    (tmp_path / "ca.key").unlink()
    with pytest.raises(RepositoryError, match=r"ca\.key is missing"):
        Authority.open(tmp_path)
    (tmp_path / "ca.key").write_bytes(key[:50])
    with pytest.raises(RepositoryError, match="cannot be read as a private key"):
        Authority.open(tmp_path)
    other = Authority.open(tmp_path / "other")
    (tmp_path / "ca.key").write_bytes((other.path / "ca.key").read_bytes())
    with pytest.raises(RepositoryError, match="do not belong together"):
        Authority.open(tmp_path)


def test_damaged_records_are_said(office, tmp_path):
    (tmp_path / "identity" / "register.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(StorageError, match="register of devices"):
        office.token()
    with pytest.raises(RepositoryError, match="start one first with trimtab serve"):
        BrokerAddress.read(tmp_path)
    (tmp_path / "broker.json").write_text("{}")
    with pytest.raises(RepositoryError, match="cannot be read"):
        BrokerAddress.read(tmp_path)
