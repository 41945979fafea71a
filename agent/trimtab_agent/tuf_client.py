"""TUF's client by hand, over HTTP: `trimtab-agent tuf init|refresh|download`.

These are the commands through which the public TUF conformance suite tests a client (its
CLIENT-CLI.md). What they test is `TrustStore`, by which the agent believes: every run starts from
the root that `init` was given and walks to the newest one, whatever else lies in the directory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import urllib3
from tuf.ngclient.updater import Updater
from tuf.ngclient.urllib3_fetcher import Urllib3Fetcher

from trimtab_agent.durable import storage_errors, write_file
from trimtab_agent.errors import CallerError, NetworkError, TrustError
from trimtab_agent.trust import TrustStore, tuf_errors

_INITIAL_ROOT = "initial-root"
"""The file that `init` leaves. Not `*.json`: those are the roles that are trusted now."""


def init(metadata_dir: Path, root: Path) -> None:
    """Gives a directory its initial root: the one thing that is trusted without proof.

    Args:
        metadata_dir: Made if it is not there.
        root: A root's metadata file. It is looked at when it is first used.

    Raises:
        CallerError: `root` cannot be read.
        StorageError: The directory cannot be written.
    """
    try:
        data = root.read_bytes()
    except OSError as error:
        raise CallerError(f"cannot read the initial root {root}: {error.strerror}") from error
    with storage_errors(f"keeping the initial root in {metadata_dir}"):
        metadata_dir.mkdir(parents=True, exist_ok=True)
        write_file(metadata_dir / _INITIAL_ROOT, data, staging=metadata_dir)


def refresh(metadata_dir: Path, metadata_url: str) -> Updater:
    """Brings the metadata in a directory up to date.

    Returns:
        The client, which can look targets up in what was just verified.

    Raises:
        CallerError: The directory has no initial root.
        TrustError: Metadata that is not signed, or older than what was seen.
        ExpiredError: Metadata that has expired.
        IntegrityError: A length or a hash that differs from what was signed.
        NetworkError: Metadata that did not come.
        StorageError: Metadata that cannot be written to the disk.
    """
    try:
        root = (metadata_dir / _INITIAL_ROOT).read_bytes()
    except OSError as error:
        raise CallerError(
            f"{metadata_dir} has no initial root ({error.strerror}): run `init` first"
        ) from error
    with _http_errors("the repository's metadata"):
        return TrustStore(metadata_dir, root).open(Urllib3Fetcher(), metadata_url)


def download(
    metadata_dir: Path,
    metadata_url: str,
    *,
    names: Sequence[str],
    target_url: str,
    target_dir: Path,
) -> None:
    """Brings the metadata up to date, and fetches the targets that are not there already.

    Args:
        metadata_dir: As `refresh`.
        metadata_url: As `refresh`.
        names: The targets' names, fetched in this order.
        target_url: Where the targets are.
        target_dir: Where they go, each as a file of its name in percent-encoding.

    Raises:
        TrustError: As `refresh`, and for a name that is not signed. Targets before it are there.
        CallerError: As `refresh`.
        ExpiredError: As `refresh`.
        IntegrityError: As `refresh`, and for a target that is not what was signed.
        NetworkError: As `refresh`.
        StorageError: As `refresh`.
    """
    client = refresh(metadata_dir, metadata_url)
    for name in names:
        with _http_errors(f"TUF target {name!r}"):
            info = client.get_targetinfo(name)
            if info is None:
                raise TrustError(f"{name!r} is not among the repository's signed TUF targets")
            path = str(target_dir / quote(name, safe=""))
            if client.find_cached_target(info, path) is None:
                client.download_target(info, path, target_url)


@contextlib.contextmanager
def _http_errors(what: str) -> Iterator[None]:
    """Turns what python-tuf and urllib3 raise into the agent's errors."""
    try:
        with tuf_errors(what):
            yield
    except urllib3.exceptions.HTTPError as error:  # raised in the middle of a body
        raise NetworkError(f"{what} did not come whole: {error}") from error
