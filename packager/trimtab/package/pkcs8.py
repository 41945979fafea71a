"""Private keys as PKCS #8 in PEM, encrypted under scrypt if there is a passphrase.

pyca/cryptography reads such files (RFC 5958, RFC 7468), and so does OpenSSL. But cryptography
writes encrypted ones with PBKDF2 of 2,048 rounds, 0.4 ms a guess on one core, and has no setting
for more. So the envelope is written here, by the standard: PBES2 (RFC 8018, section 6.2) with
scrypt (RFC 7914, section 7) and AES-256-CBC. All cryptography in it is the library's.
"""

from __future__ import annotations

import base64
import secrets
import textwrap

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

SCRYPT_N = 2**14
SCRYPT_R = 8
SCRYPT_P = 5
"""16 MiB and some 0.2 s a guess: the row of the OWASP password storage cheat sheet that stays
below the 32 MiB that OpenSSL grants scrypt, so that `openssl pkey` opens the files too."""

_SEQUENCE, _INTEGER, _OCTETS, _OBJECT = b"\x30", b"\x02", b"\x04", b"\x06"
_PBES2 = bytes.fromhex("2a864886f70d01050d")  # 1.2.840.113549.1.5.13
_SCRYPT = bytes.fromhex("2b06010401da47040b")  # 1.3.6.1.4.1.11591.4.11
_AES_256_CBC = bytes.fromhex("60864801650304012a")  # 2.16.840.1.101.3.4.1.42


def to_pem(private: Ed25519PrivateKey, passphrase: str | None) -> bytes:
    """Returns a private key as a file; None leaves it unencrypted."""
    if passphrase is None:
        return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    plain = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return _pem("ENCRYPTED PRIVATE KEY", _encrypt(plain, passphrase.encode()))


def _encrypt(plain: bytes, passphrase: bytes) -> bytes:
    """Returns an EncryptedPrivateKeyInfo in DER."""
    salt, vector = secrets.token_bytes(16), secrets.token_bytes(16)
    key = Scrypt(salt=salt, length=32, n=SCRYPT_N, r=SCRYPT_R, p=SCRYPT_P).derive(passphrase)
    padder = PKCS7(128).padder()
    cipher = Cipher(algorithms.AES(key), modes.CBC(vector)).encryptor()
    data = cipher.update(padder.update(plain) + padder.finalize()) + cipher.finalize()
    costs = (_integer(value) for value in (SCRYPT_N, SCRYPT_R, SCRYPT_P))
    derivation = _sequence(_tagged(_OBJECT, _SCRYPT), _sequence(_tagged(_OCTETS, salt), *costs))
    encryption = _sequence(_tagged(_OBJECT, _AES_256_CBC), _tagged(_OCTETS, vector))
    scheme = _sequence(_tagged(_OBJECT, _PBES2), _sequence(derivation, encryption))
    return _sequence(scheme, _tagged(_OCTETS, data))


def _sequence(*parts: bytes) -> bytes:
    return _tagged(_SEQUENCE, b"".join(parts))


def _integer(value: int) -> bytes:
    # One bit more than the number has: DER integers are signed.
    return _tagged(_INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _tagged(tag: bytes, content: bytes) -> bytes:
    """Returns one DER element (X.690, section 8.1.3)."""
    length = len(content)
    if length < 0x80:
        return tag + bytes([length]) + content
    encoded = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return tag + bytes([0x80 | len(encoded)]) + encoded + content


def _pem(label: str, der: bytes) -> bytes:
    lines = textwrap.wrap(base64.b64encode(der).decode(), 64)
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]).encode()
