"""Which version is active, and which are the way back: three symlinks, each replaced in one step.

    current -> versions/...         what is active
    committed -> versions/...       while `current` is on trial: what was active before it
    previous -> versions/...        what was committed before, for the way back

Every change is a few replacements in an order in which a kill between two leaves a state that the
same call, made again, ends.
"""

from __future__ import annotations

from pathlib import Path

from trimtab_agent.durable import point, storage_errors, sync_directory
from trimtab_agent.version import Version, read_if_whole, read_version


class Links:
    """The symlinks of a store. One process at a time may change them.

    Args:
        root: Where they are; it has the directories `versions` and `staging`.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._staging = root / "staging"
        self._versions = root / "versions"

    @property
    def current(self) -> Version | None:
        """The active version, or None."""
        return read_version(self._root / "current")

    @property
    def committed(self) -> Version | None:
        """The version that `rollback` goes back to while another is on trial, or None."""
        return self._before("committed")

    @property
    def previous(self) -> Version | None:
        """The version that was committed before, or None."""
        return self._before("previous")

    def _before(self, link: str) -> Version | None:
        """Returns the version at a link, unless that is `current` itself."""
        if self._sha256_at(link) == self._sha256_at("current"):
            return None
        return read_if_whole(self._root / link)

    def switch(self, version: Version) -> None:
        """Makes an installed version the active one, on trial. Again with the same: does nothing.

        Raises:
            StorageError: The disk refuses; the version before is still active.
        """
        with storage_errors(f"switching to {version.manifest.target_name}"):
            before = self._sha256_at("current")
            if before == version.sha256:
                return
            # In this order a kill in between leaves `committed` equal to `current`: no way back
            # is offered, and none is needed, because nothing was switched.
            if before:
                self._point("committed", before)
            self._point("current", version.sha256)

    def commit(self) -> None:
        """Ends the trial of the active version; again: does nothing.

        Raises:
            StorageError: The disk refuses; it may be called again.
        """
        with storage_errors("committing the active version"):
            if self.committed:
                self._point("previous", self.committed.sha256)
            self._unlink("committed")

    def rollback(self, sha256: str) -> None:
        """Makes the version before this one the active one, or none if there was none.

        Does nothing when it is not active, so that this can be repeated after a kill.

        Args:
            sha256: Of the manifest of the version that shall not be active.

        Raises:
            StorageError: The disk refuses; it is still active.
        """
        with storage_errors(f"rolling back from the version {sha256[:12]}"):
            if self._sha256_at("current") == sha256:
                self._go_back()
            self._unlink("committed")

    def _go_back(self) -> None:
        before = self.committed or self.previous
        if before:
            self._point("current", before.sha256)
        else:
            # An older rollback may have left this link to what has failed now.
            self._unlink("previous")
            self._unlink("current")

    def _sha256_at(self, link: str) -> str | None:
        """Returns the manifest hash that a symlink points to, or None."""
        path = self._root / link
        return path.readlink().name if path.is_symlink() else None

    def _unlink(self, link: str) -> None:
        (self._root / link).unlink(missing_ok=True)
        sync_directory(self._root)

    def _point(self, link: str, sha256: str) -> None:
        point(self._root / link, self._versions / sha256, staging=self._staging)
