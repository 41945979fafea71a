"""A model written for several runtimes, where one that refuses it keeps no other from its file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from trimtab.errors import ModelError
from trimtab.workflow.compressed import Compressed
from trimtab_agent.contract.manifest import RuntimeName
from trimtab_agent.errors import PackageError, RuntimeUnavailableError, TrimtabError


def write_each(
    write: Callable[[RuntimeName, Path], Compressed],
    targets: Sequence[RuntimeName],
    output: Path,
    *,
    log: Callable[[str], None],
) -> tuple[tuple[Compressed, ...], dict[RuntimeName, TrimtabError]]:
    """Writes each target into a folder of its own.

    Args:
        write: Writes for one target into a folder.
        targets: The runtimes.
        output: Where the folders are made, called like their runtimes.
        log: Takes a line before each.

    Returns:
        What was let out, and why there is no file for the others.

    Raises:
        TrimtabError: What the first target raised, if none was written.
    """
    results, refused = [], dict[RuntimeName, TrimtabError]()
    for target in targets:
        log(f"exporting for {target}")
        try:
            results.append(write(target, output / target))
        except (ModelError, PackageError, RuntimeUnavailableError) as error:
            refused[target] = error  # another runtime may well take the model
    if refused and not results:
        raise next(iter(refused.values()))
    return tuple(results), refused
