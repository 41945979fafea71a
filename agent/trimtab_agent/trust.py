"""What this device believes: TUF metadata, the manifests it covers, and signed assignments.

python-tuf's client does the verifying and keeps the newest trusted metadata on disk, which is what
makes a rollback to older metadata fail. The chain always starts from the root that the device was
given, never from what lies in the metadata directory.

An assignment is not TUF metadata: it is signed by an online key for one device. Those keys are
listed in a TUF target, so the offline targets key decides which they are (docs/decisions/0004).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from tuf.api.exceptions import (
    DownloadError,
    DownloadLengthMismatchError,
    LengthOrHashMismatchError,
    RepositoryError,
)
from tuf.ngclient.fetcher import FetcherInterface
from tuf.ngclient.updater import Updater

from trimtab_agent.contract import codec
from trimtab_agent.contract.messages import (
    ASSIGNMENT_CONTEXT,
    ASSIGNMENT_KEYS_TARGET,
    Assignment,
    AssignmentKeys,
    Signed,
)
from trimtab_agent.durable import storage_errors
from trimtab_agent.errors import IntegrityError, NetworkError, TrimtabError, TrustError

_BASE_URL = "mqtt:"
"""TUF's client joins this and a file name; the fetcher looks at the name only."""


class TrustStore:
    """The trusted metadata of one repository.

    Args:
        metadata_dir: Where it is kept between runs.
        root: The initial root metadata: the one thing that is trusted without proof.
    """

    def __init__(self, metadata_dir: Path, root: bytes) -> None:
        self._directory = metadata_dir
        self._root = root
        with storage_errors(f"preparing {metadata_dir}"):
            metadata_dir.mkdir(parents=True, exist_ok=True)
            # python-tuf writes through temporary files of this name; a kill leaves one behind.
            for leftover in metadata_dir.glob("tmp*"):
                leftover.unlink()

    def refresh(self, fetcher: FetcherInterface) -> Updater:
        """Brings the metadata up to date.

        Returns:
            The client, which can look targets up in what was just verified.

        Raises:
            TrustError: Metadata that is not signed, older than what was seen, or expired.
            IntegrityError: A length or a hash that differs from what was signed.
            NetworkError: Metadata that did not come.
            StorageError: Metadata that cannot be written to the disk.
        """
        with _tuf_errors("the repository's metadata"):
            client = Updater(str(self._directory), _BASE_URL, fetcher=fetcher, bootstrap=self._root)
            client.refresh()
            return client

    def target(self, fetcher: FetcherInterface, name: str) -> bytes:
        """Returns the verified content of a TUF target.

        Args:
            fetcher: Where from.
            name: The target's name.

        Raises:
            TrustError: As `refresh`, and for a name that is not signed.
            IntegrityError: The content is not what was signed.
            NetworkError: Something did not come.
            StorageError: Metadata that cannot be written to the disk.
        """
        client = self.refresh(fetcher)
        with _tuf_errors(f"TUF target {name!r}"):
            info = client.get_targetinfo(name)
            if info is None:
                raise TrustError(f"{name!r} is not among the repository's signed TUF targets")
            # Not download_target(): its file would be litter after a kill.
            data = fetcher.download_bytes(f"{_BASE_URL}/{info.hashes['sha256']}", info.length)
            info.verify_length_and_hashes(data)
            return data

    def manifest(self, fetcher: FetcherInterface, target: str) -> bytes:
        """Returns the verified bytes of a package's manifest; raises as `target` does."""
        return self.target(fetcher, target)

    def verify_assignment(
        self, fetcher: FetcherInterface, signed: bytes, *, device: str, now: datetime
    ) -> Assignment:
        """Returns the assignment in a signed message, with the keys the repository lists.

        Raises:
            FormatError: The bytes are no signed assignment.
            TrustError: As `check_assignment` and `target`.
            IntegrityError: As `target`.
            NetworkError: As `target`.
            StorageError: As `target`.
        """
        listed = self.target(fetcher, ASSIGNMENT_KEYS_TARGET)
        keys = codec.decode(listed, AssignmentKeys, what=ASSIGNMENT_KEYS_TARGET)
        return check_assignment(signed, keys, device=device, now=now)


def check_assignment(
    message: bytes, keys: AssignmentKeys, *, device: str, now: datetime
) -> Assignment:
    """Returns the assignment in a signed message. Its counter is the caller's to compare.

    Args:
        message: A `Signed` in JSON.
        keys: Who may sign. One good signature is enough.
        device: The device that this is.
        now: The time, with its zone.

    Raises:
        FormatError: The message or its payload cannot be read.
        TrustError: No listed key signed it, it is for another device, or it has expired.
    """
    signed = codec.decode(message, Signed, what="the assignment")
    if not any(
        _is_signed_by(keys.keys.get(entry.keyid), entry.signature, signed.payload)
        for entry in signed.signatures
    ):
        raise TrustError("the assignment has no good signature by a key the repository lists")
    assignment = codec.decode(signed.payload, Assignment, what="the assignment's payload")
    if assignment.device != device:
        raise TrustError(f"the assignment is for {assignment.device!r}; this is {device!r}")
    try:
        expires = msgspec.convert(assignment.expires, datetime)
        expired = now >= expires
    except (msgspec.ValidationError, TypeError) as error:  # TypeError: it names no time zone
        raise TrustError(f"the assignment's expiry {assignment.expires!r} is no time") from error
    if expired:
        raise TrustError(
            f"the assignment expired at {assignment.expires}; the clock here says "
            f"{now.isoformat(timespec='seconds')}"
        )
    return assignment


def _is_signed_by(raw_key: bytes | None, signature: bytes, payload: bytes) -> bool:
    """Says whether an Ed25519 signature over an assignment's payload is good."""
    if raw_key is None:
        return False
    try:
        key = Ed25519PublicKey.from_public_bytes(raw_key)
        key.verify(signature, ASSIGNMENT_CONTEXT + payload)
    except (InvalidSignature, ValueError):  # ValueError: a key of the wrong length
        return False
    return True


@contextlib.contextmanager
def _tuf_errors(what: str) -> Iterator[None]:
    """Turns what python-tuf raises into the agent's errors."""
    try:
        with storage_errors(f"keeping {what}"):
            yield
    except (LengthOrHashMismatchError, DownloadLengthMismatchError) as error:
        raise IntegrityError(f"{what}: {error}") from error
    except RepositoryError as error:
        raise TrustError(f"{what}: {error}") from error
    except DownloadError as error:
        # The fetcher's base class wraps whatever `_fetch` raised; ours is the better message.
        if isinstance(error.__cause__, TrimtabError):
            raise error.__cause__ from error
        raise NetworkError(f"{what} cannot be fetched: {error}") from error
