"""One life of the device in a process of its own, for strace. Says each state that is reached.

python -m support.crash_life WORLD STATE_DIR RELEASE
"""

from __future__ import annotations

import sys
from pathlib import Path

from support.crash_world import live, load_world
from trimtab_agent.contract.messages import Progress


def main() -> None:
    """Takes the release with the given number, from 1."""
    world = load_world(Path(sys.argv[1]))

    def tell(progress: Progress) -> None:
        sys.stdout.write(f"reached {progress.counter} {progress.state}\n")
        sys.stdout.flush()

    live(world, Path(sys.argv[2]), world.releases[int(sys.argv[3]) - 1].signed, tell=tell)


if __name__ == "__main__":
    main()
