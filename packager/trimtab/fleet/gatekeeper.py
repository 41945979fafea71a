"""What the broker must know of who may come in, kept in step with the register.

`trimtab enroll` runs in another process and only writes the register. The process that runs the
broker looks at the register often and brings the broker's files into agreement with it:

* a token that was added, or has expired: the password file, read again on SIGHUP; Mosquitto also
  disconnects clients whose password is gone;
* a certificate that was revoked: the revocation list, and a restart of the broker. On SIGHUP
  Mosquitto reads the list too, but looks at it only when a client connects: a connection that is
  open would stay (docs/decisions/0022).
"""

from __future__ import annotations

import enum
from datetime import datetime, timedelta

import msgspec

from trimtab.fleet.access import certificate_access, password_file, token_access
from trimtab.fleet.authority import Authority
from trimtab.fleet.brokers import BrokerTls
from trimtab.fleet.registry import Registry
from trimtab.fleet.x509_parts import ServerNames
from trimtab.package.files import write_atomically

CERTIFICATES_EVERY = timedelta(hours=1)


class Needed(enum.Enum):
    """What the broker needs, so that what was written comes into force."""

    NOTHING = enum.auto()
    RELOAD = enum.auto()
    RESTART = enum.auto()


class _Written(msgspec.Struct, frozen=True, kw_only=True):
    """What the files say, less what changes with every writing of them."""

    tokens: tuple[tuple[str, str], ...]
    revoked: frozenset[int]


class Gatekeeper:
    """Writes the broker's certificate, access lists, passwords and revocation list.

    Args:
        authority: Signs the broker's certificate and the revocation list.
        registry: Says who may come in.
        names: By which devices know the broker.
        enrolment_port: Where devices with a token connect.
    """

    def __init__(
        self, authority: Authority, registry: Registry, names: ServerNames, enrolment_port: int
    ) -> None:
        self._authority = authority
        self._registry = registry
        self._names = names
        self._enrolment_port = enrolment_port
        self._written: _Written | None = None
        self._certificates_seen: datetime | None = None

    def write_all(self, now: datetime) -> BrokerTls:
        """Writes every file.

        Returns:
            What the broker is configured with.

        Raises:
            RepositoryError: The authority's files are damaged.
            StorageError: The disk refuses, or the register cannot be read.
        """
        server, _ = self._authority.server_files(self._names, now)
        self._certificates_seen = now
        path = self._authority.path
        tls = BrokerTls(
            server=server,
            revoked=path / "revoked.pem",
            access=path / "access.acl",
            token_access=path / "access-token.acl",
            passwords=path / "tokens.passwords",
            enrolment_port=self._enrolment_port,
        )
        write_atomically(tls.access, certificate_access().encode(), mode=0o600)
        write_atomically(tls.token_access, token_access().encode(), mode=0o600)
        self._bring_into_agreement(tls, now)
        return tls

    def look(self, tls: BrokerTls, now: datetime) -> Needed:
        """Writes what has changed since the last look.

        Raises:
            RepositoryError: The authority's files are damaged.
            StorageError: The disk refuses, or the register cannot be read.
        """
        renewed = self._renew_certificates(now)
        changed = self._bring_into_agreement(tls, now)
        return Needed.RELOAD if renewed and changed is Needed.NOTHING else changed

    def _renew_certificates(self, now: datetime) -> bool:
        """Renews the broker's certificate and the host's when due; says whether the first was."""
        seen = self._certificates_seen
        if seen is not None and now - seen < CERTIFICATES_EVERY:
            return False
        self._certificates_seen = now
        self._authority.host_files(now)  # links read it when they connect again
        _, renewed = self._authority.server_files(self._names, now)
        return renewed

    def _bring_into_agreement(self, tls: BrokerTls, now: datetime) -> Needed:
        revoked = self._registry.revoked(now)
        tokens = tuple((token.id, token.password) for token in self._registry.open_tokens(now))
        wanted = _Written(tokens=tokens, revoked=frozenset(one.serial for one in revoked))
        before = self._written
        if before is None or before.tokens != wanted.tokens:
            write_atomically(tls.passwords, password_file(tokens).encode(), mode=0o600)
        if before is None or before.revoked != wanted.revoked:
            entries = [(one.serial, one.revoked) for one in revoked if one.revoked]
            crl = self._authority.revocation_list(entries, now)
            write_atomically(tls.revoked, crl, mode=0o600)
        self._written = wanted
        if before is None or before == wanted:
            return Needed.NOTHING
        # A certificate that leaves the list has expired: nobody has to go.
        return Needed.RESTART if wanted.revoked - before.revoked else Needed.RELOAD
