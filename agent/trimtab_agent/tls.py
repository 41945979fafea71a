"""The encrypted connection: TLS 1.3 only, both sides show a certificate of one authority.

In TLS 1.3 a client's handshake is over before the server has looked at the client's certificate:
a refusal arrives as an alert with the first bytes that are read (RFC 8446, section 4.4.3 and
6.2). paho-mqtt drops that error and reports a lost connection, so the socket here keeps it.
"""

from __future__ import annotations

import ssl
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec

from trimtab_agent.errors import IdentityError

_NOT_YET_VALID, _EXPIRED = 9, 10
"""Codes of X509_verify_cert (openssl-verification-options(1)); 18 to 21 are unknown issuers."""

_ENROL = (
    "on a device run: trimtab-agent enroll --token-file FILE --config FILE (the token comes from "
    "the host); on a host take the workspace of that broker (-w)"
)
_PLAIN = "is it a broker without TLS (mqtt://), or is this the wrong port?"
_ALERTS = {
    "CERTIFICATE_REQUIRED": f"it wants a client certificate and got none; {_ENROL}",
    "CERTIFICATE_EXPIRED": f"this side's certificate has expired; {_ENROL}",
    "CERTIFICATE_REVOKED": f"this side's certificate was revoked; if that is a mistake, {_ENROL}",
    "UNKNOWN_CA": f"this side's certificate is of another authority than the broker's; {_ENROL}",
    "BAD_CERTIFICATE": f"this side's certificate is not accepted; {_ENROL}",
    "CERTIFICATE_UNKNOWN": f"this side's certificate is not accepted; {_ENROL}",
}


class TlsFiles(msgspec.Struct, frozen=True):
    """Where the certificates of one side lie, all PEM.

    Attributes:
        ca: Of the authority: who is trusted.
        certificate: Of this side; None while it has none, at enrolment.
        key: Its private key.
    """

    ca: Path
    certificate: Path | None = None
    key: Path | None = None


class TlsContext:
    """Makes the connections of one link, and remembers how the last one was refused.

    Args:
        files: This side's certificates.

    Raises:
        IdentityError: One of them is missing, unreadable, or does not belong to the key.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks chain and host name
        self.context.minimum_version = ssl.TLSVersion.TLSv1_3
        self.context.sslsocket_class = _socket_that_tells(self)
        self.last_error: OSError | None = None
        self.load()

    def load(self) -> None:
        """Reads the files; called again, connections made from then on use the new ones.

        Raises:
            IdentityError: One of them is missing, unreadable, or does not belong to the key.
        """
        files = self._files
        try:
            self.context.load_verify_locations(files.ca)
            if files.certificate is not None:
                self.context.load_cert_chain(files.certificate, files.key)
        except FileNotFoundError as error:
            raise IdentityError(
                f"there is no certificate for TLS in {files.ca.parent}: not enrolled; {_ENROL}"
            ) from error
        except OSError as error:  # ssl.SSLError is one
            raise IdentityError(
                f"the certificates in {files.ca.parent} cannot be used: {error}; {_ENROL}"
            ) from error

    def explain_last(self) -> str | None:
        """Returns in words what TLS said when the connection failed, or None."""
        return None if self.last_error is None else explain(self.last_error)


def _socket_that_tells(owner: TlsContext) -> type[ssl.SSLSocket]:
    """Returns a socket class that leaves its TLS errors with `owner`."""

    class TellingSocket(ssl.SSLSocket):
        def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
            try:
                return super().recv(buflen, flags)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError, ssl.SSLEOFError):
                raise  # nothing to read yet, or the other side is just gone
            except ssl.SSLError as error:
                owner.last_error = error
                raise

        def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001 -- as in ssl
            owner.last_error = None
            try:
                super().do_handshake(block)
            except OSError as error:
                owner.last_error = error
                raise

    return TellingSocket


def explain(error: OSError) -> str:
    """Returns in words why TLS failed, and the way out."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _explain_verification(error)
    if isinstance(error, (ssl.SSLEOFError, ConnectionError)):
        return f"it ended the connection before TLS began: {_PLAIN}"
    reason = getattr(error, "reason", None) or str(error)
    for name, words in _ALERTS.items():
        if name in reason:
            return words
    if reason in {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"}:
        return f"it does not speak TLS there: {_PLAIN}"
    if "PROTOCOL_VERSION" in reason:
        return "it does not offer TLS 1.3"
    return f"TLS failed: {error}"


def _explain_verification(error: ssl.SSLCertVerificationError) -> str:
    text: Any = error.verify_message
    now = datetime.now(timezone.utc).isoformat(timespec="minutes")
    if error.verify_code == _NOT_YET_VALID:
        return f"its certificate is not valid yet: is this clock right? It says {now}"
    if error.verify_code == _EXPIRED:
        return (
            f"its certificate has expired, by this clock, which says {now}; if that is right, "
            f"restart `trimtab serve`, which renews it"
        )
    if "mismatch" in text:
        return f"{text}: start it with `trimtab serve --name`, so that its certificate names it"
    return f"it is not the broker that this side trusts ({text}); {_ENROL}"
