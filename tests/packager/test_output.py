"""What devices say is printed as text, whatever is in it."""

from __future__ import annotations

import pytest

from trimtab.cli.output import print_table, printable


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Debian 12 \u00b5s", "Debian 12 \u00b5s"),
        ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
        ("\x9b2Jgone", "\\x9b2Jgone"),
        ("a\rb\nc", "a\\x0db\nc"),
    ],
)
def test_control_characters_are_shown_and_not_obeyed(said, shown):
    assert printable(said) == shown


def test_a_table_shows_brackets_as_they_are(capsys):
    print_table(["device", "system"], [["dev-1", "[/x] [red]Debian[/red] \x1b[31m"]])
    assert "[/x] [red]Debian[/red] \\x1b[31m" in capsys.readouterr().out
