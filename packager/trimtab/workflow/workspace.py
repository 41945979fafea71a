"""The workspace: one folder with everything that Trimtab keeps on the host.

<workspace>/
  repository/    TUF metadata, targets and signing keys (trimtab.package.sign)
  packages/      every package that was built
  broker/        the embedded broker's configuration and data
  identity/      certificate authority, certificates, tokens (trimtab.fleet.authority)
  reports.sqlite what devices have reported
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from trimtab.errors import RepositoryError
from trimtab.package.keys import KeySources
from trimtab.package.new_repository import KeyPlan
from trimtab.package.sign import ROOT_FILE, Repository


@dataclass(frozen=True)
class Workspace:
    """A workspace.

    Attributes:
        path: Its folder.
        sources: Where signing keys are besides the repository's folder, and what unlocks them.
    """

    path: Path
    sources: KeySources = field(default_factory=KeySources, compare=False, repr=False)

    @classmethod
    def create(
        cls, path: Path, *, plan: KeyPlan | None = None, sources: KeySources | None = None
    ) -> Workspace:
        """Makes a workspace with new signing keys; what the folder holds already stays.

        Args:
            path: Its folder.
            plan: How many offline keys there are; by default one a role.
            sources: A folder for the offline keys, and their passphrase.

        Raises:
            CallerError: A key of one of the names exists in the folder for the offline keys.
            RepositoryError: It has a repository already.
            StorageError: The disk has no room or refuses a write.
        """
        workspace = cls(path, sources or KeySources())
        if workspace.exists():
            raise RepositoryError(
                f"{path} is a workspace already; new keys would lock out every device that "
                "trusts the present ones. Take another folder"
            )
        Repository.init(workspace.repository_path, plan=plan, sources=workspace.sources)
        workspace.packages.mkdir(parents=True, exist_ok=True)
        return workspace

    @classmethod
    def open(cls, path: Path, *, sources: KeySources | None = None) -> Workspace:
        """Opens a workspace.

        Args:
            path: Its folder.
            sources: For what signs: where keys are, and what unlocks them.

        Raises:
            RepositoryError: There is none.
        """
        workspace = cls(path, sources or KeySources())
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
        return Repository.open(self.repository_path, sources=self.sources)

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
    def identity_path(self) -> Path:
        """Folder of the certificate authority and of what it has given out."""
        return self.path / "identity"

    @property
    def database_url(self) -> str:
        """SQLAlchemy's address of the reports."""
        return f"sqlite:///{self.path / 'reports.sqlite'}"
