"""The workspace: one folder with everything that Trimtab keeps on the host.

<workspace>/
  repository/    TUF metadata, targets and signing keys (trimtab.package.sign)
  packages/      every package that was built
  broker/        the embedded broker's configuration and data
  reports.sqlite what devices have reported
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trimtab.errors import RepositoryError
from trimtab.package.sign import ROOT_FILE, Repository


@dataclass(frozen=True)
class Workspace:
    """A workspace.

    Attributes:
        path: Its folder.
    """

    path: Path

    @classmethod
    def create(cls, path: Path) -> Workspace:
        """Makes a workspace with new signing keys; what the folder holds already stays.

        Raises:
            RepositoryError: It has a repository already.
            StorageError: The disk has no room or refuses a write.
        """
        workspace = cls(path)
        if workspace.exists():
            raise RepositoryError(
                f"{path} is a workspace already; new keys would lock out every device that "
                "trusts the present ones. Take another folder"
            )
        Repository.init(workspace.repository_path)
        workspace.packages.mkdir(parents=True, exist_ok=True)
        return workspace

    @classmethod
    def open(cls, path: Path) -> Workspace:
        """Opens a workspace.

        Raises:
            RepositoryError: There is none.
        """
        workspace = cls(path)
        if not workspace.exists():
            raise RepositoryError(f"{path} is no workspace; make one with: trimtab init {path}")
        return workspace

    def exists(self) -> bool:
        """Says whether the folder is a workspace."""
        return (self.repository_path / "metadata").is_dir()

    def repository(self) -> Repository:
        """Opens the signing repository.

        Raises:
            RepositoryError: Its metadata is broken.
        """
        return Repository.open(self.repository_path)

    @property
    def repository_path(self) -> Path:
        """Folder of the signing repository."""
        return self.path / "repository"

    @property
    def root_file(self) -> Path:
        """The file that a device is given at the start: what it trusts."""
        return self.repository_path / "metadata" / ROOT_FILE

    @property
    def packages(self) -> Path:
        """Folder of the packages."""
        return self.path / "packages"

    @property
    def broker_path(self) -> Path:
        """Folder of the embedded broker."""
        return self.path / "broker"

    @property
    def database_url(self) -> str:
        """SQLAlchemy's address of the reports."""
        return f"sqlite:///{self.path / 'reports.sqlite'}"
