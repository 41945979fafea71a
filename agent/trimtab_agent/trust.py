"""What this device believes: TUF metadata, the manifests it covers, and who may sign messages.

python-tuf's client does the verifying and keeps the newest trusted metadata on disk, which is what
makes a rollback to older metadata fail. The chain always starts from the root that the device was
given, never from what lies in the metadata directory.

python-tuf and cryptography are large, so the agent runs this in a child process
(`trimtab_agent.verifier`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
)
from tuf.ngclient.fetcher import FetcherInterface
from tuf.ngclient.updater import Updater

from trimtab_agent.contract import codec
from trimtab_agent.contract.layout import MAX_DOCUMENT_BYTES
from trimtab_agent.contract.messages import ASSIGNMENT_KEYS_TARGET, AssignmentKeys
from trimtab_agent.durable import storage_errors
from trimtab_agent.errors import (
    DocumentMissingError,
    ExpiredError,
    IntegrityError,
    NetworkError,
    TrustError,
)
from trimtab_agent.signed import verify_signed
from trimtab_agent.sources import Documents

_BASE_URL = "document:"
"""TUF's client joins this and a file name; `DocumentFetcher` looks at the name only."""


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

    def refresh(self, documents: Documents) -> Updater:
        """Brings the metadata up to date; as `open`, with documents instead of URLs."""
        return self.open(DocumentFetcher(documents), _BASE_URL)

    def open(self, fetcher: FetcherInterface, url: str) -> Updater:
        """Brings the metadata up to date.

        Args:
            fetcher: Reads what is at a URL.
            url: Where the metadata files are.

        Returns:
            The client, which can look targets up in what was just verified.

        Raises:
            TrustError: Metadata that is not signed, or older than what was seen.
            ExpiredError: Metadata that has expired.
            IntegrityError: A length or a hash that differs from what was signed.
            NetworkError: Metadata that did not come.
            StorageError: Metadata that cannot be written to the disk.
        """
        with tuf_errors("the repository's metadata"):
            client = Updater(str(self._directory), url, fetcher=fetcher, bootstrap=self._root)
            client.refresh()
            return client

    def target(self, documents: Documents, name: str) -> bytes:
        """Returns the verified content of a TUF target, such as a package's manifest.

        Args:
            documents: Where from.
            name: The target's name.

        Raises:
            TrustError: As `refresh`, and for a name that is not signed.
            IntegrityError: The content is not what was signed, or larger than any may be.
            NetworkError: Something did not come.
            StorageError: Metadata that cannot be written to the disk.
        """
        client = self.refresh(documents)
        with tuf_errors(f"TUF target {name!r}"):
            info = client.get_targetinfo(name)
            if info is None:
                raise TrustError(f"{name!r} is not among the repository's signed TUF targets")
            if info.length > MAX_DOCUMENT_BYTES or "sha256" not in info.hashes:
                raise IntegrityError(
                    f"TUF target {name!r} is listed with {info.length} bytes and the hashes "
                    f"{sorted(info.hashes)}; at most {MAX_DOCUMENT_BYTES} bytes and a sha256 are "
                    "needed"
                )
            # Not download_target(): its file would be litter after a kill.
            fetcher = DocumentFetcher(documents)
            data = fetcher.download_bytes(f"{_BASE_URL}/{info.hashes['sha256']}", info.length)
            info.verify_length_and_hashes(data)
            return data

    def payload(
        self,
        documents: Documents,
        signed: bytes,
        *,
        what: str,
        context: bytes,
        device: str,
        now: datetime,
    ) -> bytes:
        """Returns the payload of a signed message, by the keys that the repository lists.

        Raises:
            FormatError: The bytes are no such message.
            TrustError: As `signed.verify_signed` and `target`.
            IntegrityError: As `target`.
            NetworkError: As `target`.
            StorageError: As `target`.
        """
        listed = self.target(documents, ASSIGNMENT_KEYS_TARGET)
        keys = codec.decode(listed, AssignmentKeys, what=ASSIGNMENT_KEYS_TARGET)
        return verify_signed(signed, keys, what=what, context=context, device=device, now=now)


class DocumentFetcher(FetcherInterface):
    """TUF's fetcher over a source: the last component of a URL is a document's name.

    Args:
        documents: The source.
    """

    def __init__(self, documents: Documents) -> None:
        self._documents = documents

    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            yield from self._documents.read(url.rpartition("/")[2])
        except DocumentMissingError as error:
            raise DownloadHTTPError(str(error), 404) from error


@contextlib.contextmanager
def tuf_errors(what: str) -> Iterator[None]:
    """Turns what python-tuf raises into the agent's errors."""
    try:
        with storage_errors(f"keeping {what}"):
            yield
    except (LengthOrHashMismatchError, DownloadLengthMismatchError) as error:
        raise IntegrityError(f"{what}: {error}") from error
    except ExpiredMetadataError as error:
        raise ExpiredError(f"{what}: {error}") from error
    except BadVersionNumberError as error:
        raise TrustError(
            f"{what}: {error}: older than what this device has seen; if nobody holds newer ones "
            "back, have the host publish again (trimtab serve does within ten minutes)"
        ) from error
    except RepositoryError as error:
        raise TrustError(f"{what}: {error}") from error
    except DownloadError as error:
        raise NetworkError(f"{what} cannot be fetched: {error}") from error
