"""Root and targets metadata that wait for signatures, in `metadata/staged/`.

A staged file is ordinary TUF metadata of the next version with some of its signatures. It can be
carried to the machines where the offline keys are, and back. What may come into force is decided
here, from signatures alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tuf.api.metadata import Metadata, Root, Targets

from trimtab.errors import RepositoryError
from trimtab.package.files import write_atomically
from trimtab.package.metadata import S, encode, parse
from trimtab.package.signing import is_signed
from trimtab_agent.durable import storage_errors


@dataclass(frozen=True)
class State:
    """What is in force, and what is staged.

    Attributes:
        root: The root in force.
        targets: The targets metadata in force.
        staged_root: The next root.
        staged_targets: The next targets metadata.
    """

    root: Metadata[Root]
    targets: Metadata[Targets]
    staged_root: Metadata[Root] | None = None
    staged_targets: Metadata[Targets] | None = None

    @property
    def judges(self) -> list[Root]:
        """The roots that must take what is staged: the one in force, and the staged one.

        A new root needs the signatures of the old one's threshold and of its own (TUF
        specification, section 5.3.4 and 5.3.5). New targets metadata is signed for both too, so
        that a release does not stop a change of root that is under way.
        """
        staged = self.staged_root
        return [self.root.signed] if staged is None else [self.root.signed, staged.signed]

    def ready(self) -> tuple[Metadata[Root] | None, Metadata[Targets] | None]:
        """Returns what has signatures enough to come into force now, together.

        A new root comes only with targets metadata that it takes: devices would otherwise refuse
        everything until there is some.
        """
        root, targets = self.staged_root, self.staged_targets
        if root is not None and is_signed(self.judges, root):
            if targets is not None and is_signed([root.signed], targets):
                return root, targets
            if is_signed([root.signed], self.targets):
                return root, None
        if targets is not None and is_signed([self.root.signed], targets):
            return None, targets
        return None, None


class StagedFiles:
    """The staged files of one repository.

    Args:
        directory: Where they are; it is made when the first one is written.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, role: str) -> Path:
        """Returns where the staged metadata of a role is or would be."""
        return self._directory / f"{role}.json"

    def read(self, kind: type[S], in_force: Metadata[S]) -> Metadata[S] | None:
        """Returns the staged metadata of a role; None without any.

        Args:
            kind: The role.
            in_force: What is in force. The same once more is a rest, left by a process that
                died, and does not count.

        Raises:
            RepositoryError: The file is damaged, or belongs to another state.
        """
        path = self.path(kind.type)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RepositoryError(f"cannot read {path}: {error.strerror}") from error
        metadata = parse(data, kind, what=str(path))
        if metadata.signed == in_force.signed:
            return None
        if metadata.signed.version != in_force.signed.version + 1:
            raise RepositoryError(
                f"{path} is version {metadata.signed.version}, and version "
                f"{in_force.signed.version} is in force: it was staged for another state; remove "
                f"the file and begin anew"
            )
        return metadata

    def write(self, metadata: Metadata[S]) -> None:
        """Writes staged metadata.

        Raises:
            StorageError: The disk has no room or refuses the write.
        """
        with storage_errors(f"making {self._directory}"):
            self._directory.mkdir(exist_ok=True)
        write_atomically(self.path(metadata.signed.type), encode(metadata))

    def remove(self, role: str) -> None:
        """Removes the staged metadata of a role, if there is some.

        Raises:
            StorageError: The disk refuses.
        """
        with storage_errors(f"removing {self.path(role)}"):
            self.path(role).unlink(missing_ok=True)
