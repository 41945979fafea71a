"""The search's file: every trial as soon as it is done, so that an interruption loses nothing.

One JSON file, replaced as a whole: a reader sees the old or the new one, never half of one.
Verdicts are not in it. They are made from the trials, so a rerun with another budget keeps
everything that was measured.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from trimtab.errors import RecipeError
from trimtab.search.trial import Built, Trial
from trimtab_agent.contract import codec
from trimtab_agent.errors import FormatError, StorageError


class Pending(msgspec.Struct, kw_only=True, frozen=True):
    """A candidate that was built but not measured yet."""

    candidate: str
    built: Built
    compress_s: float


class SearchState(msgspec.Struct, kw_only=True, frozen=True):
    """What a search knows.

    Attributes:
        format: Always 1.
        subject: What the trials are of: whatever, if it changed, would make them those of
            another search, such as the model's and the data's hash, the profile and the device.
        trials: In the order in which they were done.
        pending: Built, but not measured yet.
    """

    format: Literal[1] = 1
    subject: dict[str, str]
    trials: tuple[Trial, ...] = ()
    pending: Pending | None = None


def load_state(path: Path, subject: Mapping[str, str]) -> SearchState:
    """Returns what an earlier run of the same search has left, or an empty state.

    Raises:
        RecipeError: The file is of another search; the message names what differs.
        FormatError: The file is no state file.
        StorageError: It cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return SearchState(subject=dict(subject))
    except OSError as error:
        raise StorageError(f"search file {path} cannot be read: {error.strerror}") from error
    state = codec.decode(data, SearchState, what=f"search file {path}")
    ids = [trial.candidate.id for trial in state.trials]
    if len(set(ids)) != len(ids):
        raise FormatError(f"search file {path} holds a candidate twice; move the file away")
    differing = sorted(
        key
        for key in state.subject.keys() | subject.keys()
        if state.subject.get(key) != subject.get(key)
    )
    if differing:
        raise RecipeError(
            f"search file {path} is of another search: its {', '.join(differing)} differs; "
            f"move the file away, or give this search another directory"
        )
    return state


def save_state(path: Path, state: SearchState) -> None:
    """Writes the state in place of the one before.

    Raises:
        StorageError: It cannot be written; the one before is untouched.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}-", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(codec.encode_pretty(state))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise StorageError(f"search file {path} cannot be written: {error.strerror}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
