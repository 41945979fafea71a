"""Keys and passphrases on the command line: options, and the person at the terminal."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from trimtab.package.keys import KeySources

Keys = Annotated[
    Path | None,
    typer.Option(
        "--keys",
        envvar="TRIMTAB_KEYS",
        help="Another folder with key files, such as a USB stick; it is looked in first.",
    ),
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        help="File with the passphrase of the offline keys. Without it, TRIMTAB_PASSPHRASE, or "
        "a question on the terminal."
    ),
]


def key_sources(keys: Path | None, passphrase_file: Path | None) -> KeySources:
    """Returns where keys are and what unlocks them; nobody is asked before it is needed.

    Raises:
        CallerError: The folder or the file is not there, or the file is empty.
    """
    from trimtab.package.keys import KeySources
    from trimtab.package.passphrases import PASSPHRASE_VARIABLE, Passphrases
    from trimtab_agent.errors import CallerError

    if keys is not None and not keys.is_dir():
        raise CallerError(f"--keys {keys} is no folder: mount it, or make it first")
    given = os.environ.get(PASSPHRASE_VARIABLE) or None
    if passphrase_file is not None:
        given = _read_passphrase(passphrase_file)
    prompt = _Terminal() if given is None and sys.stdin.isatty() else None
    return KeySources(folder=keys, passphrases=Passphrases(given, prompt))


def _read_passphrase(path: Path) -> str:
    from trimtab_agent.errors import CallerError

    try:
        passphrase = path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CallerError(f"--passphrase-file {path} cannot be read: {error}") from error
    if not passphrase:
        raise CallerError(f"--passphrase-file {path} is empty")
    return passphrase


class _Terminal:
    """Asks on the terminal, without showing what is typed."""

    def ask(self, what: str) -> str:
        """Asks for a secret that exists."""
        return str(typer.prompt(what, hide_input=True, err=True))

    def choose(self) -> str:
        """Asks for a new passphrase, twice."""
        return str(
            typer.prompt(
                "new passphrase for the offline keys (empty: none)",
                default="",
                show_default=False,
                hide_input=True,
                confirmation_prompt=True,
                err=True,
            )
        )
