"""Where the command `trimtab-agent` starts: before anything is imported that could be lean."""

from __future__ import annotations

import sys

from trimtab_agent.lean import import_lean


def main() -> int:
    """Runs the command; see `trimtab_agent.cli.main`."""
    import_lean("shutil", "urllib.parse", "msgspec")
    from trimtab_agent import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
