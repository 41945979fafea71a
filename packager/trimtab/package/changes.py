"""Changes to root and targets metadata: proposed, signed, and put in force when enough have signed.

Every change goes the same way. It makes the next version of a file, signs it with the keys that
are here, and puts it in force if that is enough; if not, the file is staged, and `advance` goes
on from there once more signatures, or the online keys, are at hand. The caller holds the lock.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from trimtab.errors import MissingKeyError
from trimtab.package.keys import KeyStore
from trimtab.package.metadata import Clock, MetadataFiles, S, encode, expiry
from trimtab.package.signing import OnlineSigner, add_signatures, is_signed, role_keys, standing
from trimtab.package.staged import StagedFiles, State

ENOUGH = (
    "enough keys have signed; `trimtab repo sign` puts it in force on the machine with the online "
    "keys"
)

OfflineRole = Literal["root", "targets"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a change came to.

    Attributes:
        in_force: Files that are in force now, such as `2.root.json`.
        waiting: What is staged and waits, and for what, a line each.
    """

    in_force: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()


class Changes:
    """The changes to one repository.

    Args:
        files: The metadata in force.
        staged: The metadata that waits.
        keys: The private keys.
        clock: The time in UTC, in whole seconds.
    """

    def __init__(
        self, files: MetadataFiles, staged: StagedFiles, keys: KeyStore, clock: Clock
    ) -> None:
        self._files = files
        self._staged = staged
        self._keys = keys
        self._clock = clock
        self._online = OnlineSigner(files, keys, clock)

    def state(self) -> State:
        """Returns what is in force and what is staged.

        Raises:
            RepositoryError: A file is missing, damaged, or staged for another state.
        """
        root, targets = self._files.root(), self._files.targets()
        return State(
            root=root,
            targets=targets,
            staged_root=self._staged.read(Root, root),
            staged_targets=self._staged.read(Targets, targets),
        )

    def list_targets(self, listed: Mapping[str, TargetFile]) -> Outcome:
        """Lists TUF targets, in place of those of the same name.

        Raises:
            RepositoryError: A key or a file is damaged, or a key stays locked.
            StorageError: A file cannot be written.
        """
        state = self.state()
        targets = self._next(state.targets, state.staged_targets)
        targets.signed.targets.update(listed)
        return self._advance(replace(state, staged_targets=targets))

    def edit_root(self, edit: Callable[[Root], None]) -> Outcome:
        """Changes the root.

        Args:
            edit: Changes the next version in place.

        Raises:
            RepositoryError: A key or a file is damaged, or a key stays locked.
            StorageError: A file cannot be written.
        """
        state = self.state()
        root = self._next(state.root, state.staged_root)
        edit(root.signed)
        return self._advance(replace(state, staged_root=root))

    def renew(self, role: OfflineRole) -> Outcome:
        """Makes a version with a fresh expiry; raises as `edit_root`."""
        return self.edit_root(lambda _: None) if role == "root" else self.list_targets({})

    def advance(self) -> Outcome:
        """Signs what is staged with the keys that are here; raises as `edit_root`."""
        return self._advance(self.state())

    def can_list_targets(self) -> list[str]:
        """Returns why a release would wait, a line each; empty if the keys here are enough.

        Raises:
            RepositoryError: A key or a file is damaged, or a key stays locked.
        """
        state = self.state()
        targets = self._next(state.targets, None)
        problems = self._sign(targets, state)
        if is_signed([state.root.signed], targets):
            return []
        return [*self._lacking(targets, state), *problems]

    def renew_online(self, *, snapshot: bool) -> Outcome:
        """Signs a new timestamp, and a new snapshot if asked to.

        Raises:
            RepositoryError: A key is not here, or a key or a file is damaged.
            StorageError: A file cannot be written.
        """
        root = self._files.root().signed
        files = self._online.renewed(root, snapshot=snapshot)
        self._files.replace(files)
        return Outcome(in_force=tuple(files))

    def missing(self, state: State) -> tuple[str, ...]:
        """Returns what each staged file lacks, a line each."""
        lines = []
        if state.staged_root is not None:
            lines += self._lacking(state.staged_root, state)
        if state.staged_targets is not None:
            lines += self._lacking(state.staged_targets, state)
        return tuple(lines)

    def _next(self, in_force: Metadata[S], staged: Metadata[S] | None) -> Metadata[S]:
        """Returns the next version to change: what is staged already, or a copy, unsigned."""
        signed = copy.deepcopy((staged or in_force).signed)
        signed.version = in_force.signed.version + 1
        signed.expires = expiry(signed.type, self._clock)
        return Metadata(signed)

    def _advance(self, state: State) -> Outcome:
        state = self._with_targets_for_root(state)
        problems: list[str] = []
        if state.staged_root is not None:
            problems += self._sign(state.staged_root, state)
        if state.staged_targets is not None:
            problems += self._sign(state.staged_targets, state)
        root, targets = state.ready()
        if root is None and targets is None:
            self._keep(state)
            return Outcome(waiting=(*self.missing(state), *dict.fromkeys(problems)))
        try:
            # Everything is signed before anything is written: a key that fails changes nothing.
            files = self._encode(state, root, targets)
        except MissingKeyError as error:
            self._keep(state)
            return Outcome(waiting=(f"{ENOUGH}; here {error}",))
        rest = replace(
            state,
            staged_root=None if root else state.staged_root,
            staged_targets=None if targets else state.staged_targets,
        )
        self._keep(rest)
        # A staged file that goes with this change becomes the same as what comes into force: so
        # it is known for a rest if this process dies before it removes it.
        if root is not None and self._staged.path("root").exists():
            self._staged.write(root)
        if targets is not None and self._staged.path("targets").exists():
            self._staged.write(targets)
        self._files.replace(files)
        self._drop_rests()
        return Outcome(in_force=tuple(files), waiting=self.missing(rest))

    def _with_targets_for_root(self, state: State) -> State:
        """Stages targets metadata where the staged root does not take that in force."""
        root = state.staged_root
        if root is None or state.staged_targets or is_signed([root.signed], state.targets):
            return state
        return replace(state, staged_targets=self._next(state.targets, None))

    def _sign(self, metadata: Metadata[S], state: State) -> list[str]:
        return add_signatures(
            metadata,
            self._keys,
            role_keys(state.judges, metadata.signed.type),
            enough=lambda: is_signed(state.judges, metadata),
        )

    def _encode(
        self, state: State, root: Metadata[Root] | None, targets: Metadata[Targets] | None
    ) -> dict[str, bytes]:
        """Returns all files of a new state, in the order in which they shall appear."""
        files = {}
        listed = None
        if root is not None:
            files[f"{root.signed.version}.root.json"] = encode(root)
        if targets is not None:
            listed = targets.signed.version, encode(targets)
            files[f"{listed[0]}.targets.json"] = listed[1]
        judge = (root or state.root).signed
        return {**files, **self._online.renewed(judge, snapshot=True, targets=listed)}

    def _keep(self, state: State) -> None:
        """Writes what is staged."""
        if state.staged_root is not None:
            self._staged.write(state.staged_root)
        if state.staged_targets is not None:
            self._staged.write(state.staged_targets)

    def _drop_rests(self) -> None:
        """Removes staged files that are in force now."""
        if self._staged.read(Root, self._files.root()) is None:
            self._staged.remove("root")
        if self._staged.read(Targets, self._files.targets()) is None:
            self._staged.remove("targets")

    def _lacking(self, metadata: Metadata[S], state: State) -> list[str]:
        role = metadata.signed.type
        lines = []
        for judge in state.judges:
            result = standing(judge, metadata)
            if result.verified:
                continue
            names = [self._keys.entry(role, keyid).name for keyid in result.unsigned]
            lines.append(
                f"{self._staged.path(role)}: {len(result.signed)} of {result.threshold} "
                f"signatures for version {judge.version} of the root; "
                f"{result.missing} more needed of: {', '.join(names)}"
            )
        return lines
