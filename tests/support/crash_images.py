"""What a disk may hold after a power cut, given the log of what a process asked to be written.

A power cut comes after any operation. What was synced by then is there. Of the rest there may be
all, nothing, or a part; two models say which parts.

`ordered` is ext4 with data=ordered (https://docs.kernel.org/filesystems/ext4/journal.html): names
reach the disk in the order in which they were made, and a sync of anything brings all names before
it. The data of a file that was not synced may be missing though its name is there ("zero-length
files", https://lwn.net/Articles/322823/), zeros, or torn at sectors.

`weak` is what POSIX promises and no more, in the manner of ALICE (Pillai et al., "All File Systems
Are Not Created Equal", OSDI 2014): a name is on the disk when its directory was synced; other names
may be there or not, in any order, but for changes of one name, which stay in order. A rename is
atomic. Syncing a file brings its data and no name.

Writes are torn at sectors of 512 or 4096 bytes; a sector is old or new, never a mixture, and a
write does not harm its neighbours (SQLite's "powersafe overwrite", https://www.sqlite.org/psow.html).
"""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from support.crash_trace import (
    ROOT,
    Create,
    Inode,
    Log,
    Operation,
    Remove,
    Rename,
    Say,
    Sync,
    Tree,
    Truncate,
    Write,
)

NameOperation = Create | Rename | Remove
DataOperation = Write | Truncate
Data = Callable[[bytearray, Sequence[DataOperation]], None]
"""Applies what survives of a file's unsynced operations."""

CHANCE = 0.5
"""Of each unsynced thing to be on the disk, in the random images."""


@dataclass(frozen=True)
class Image:
    """A disk after a power cut.

    Attributes:
        cut: How many operations had been asked for.
        model: Which rule made it, such as `"weak: torn"`.
        tree: What is on the disk.
        promised: The last line that the process had said, or None.
    """

    cut: int
    model: str
    tree: Tree
    promised: str | None

    def digest(self) -> bytes:
        """Returns a hash of all names and contents, to tell distinct images."""
        summary = hashlib.sha256()
        _digest_into(summary, self.tree, ROOT)
        summary.update(repr(self.promised).encode())
        return summary.digest()


def _digest_into(summary: hashlib._Hash, tree: Tree, inode: int) -> None:
    for name, number in sorted(tree.inodes[inode].names.items()):
        child = tree.inodes[number]
        head = f"{name!r} {child.kind} {child.target!r} {len(child.data)} {{"
        summary.update(head.encode())
        summary.update(child.data)
        _digest_into(summary, tree, number)
        summary.update(b"}")


def images(log: Log, *, seed: int, rounds: int = 1) -> Iterator[Image]:
    """Yields the distinct images of a log: for each cut all rules, the random ones `rounds` times.

    Args:
        log: What was asked for.
        seed: Of the random rules.
        rounds: How often to draw each random rule at each cut.
    """
    seen: set[bytes] = set()
    for cut in range(len(log.operations) + 1):
        done = log.operations[:cut]
        said = [operation.line for operation in done if isinstance(operation, Say)]
        for model, tree in _at_cut(log.before, done, random.Random(f"{seed}/{cut}"), rounds):
            image = Image(cut, model, tree, said[-1] if said else None)
            digest = image.digest()
            if digest not in seen:
                seen.add(digest)
                yield image


def _at_cut(
    before: Tree, done: Sequence[Operation], chance: random.Random, rounds: int
) -> Iterator[tuple[str, Tree]]:
    """Yields what the rules make of the operations before one cut."""
    synced = _last_syncs(done)
    names = [n for n, operation in enumerate(done) if isinstance(operation, NameOperation)]
    journal = max(synced.values(), default=-1)
    committed = {n for n in names if n < journal}
    forced = _with_earlier(done, {n for n in names if _is_forced(done[n], n, synced)})

    def build(kept: set[int], data: Data) -> Tree:
        return _build(before, done, kept, synced, data)

    yield "prefix", build(set(names), _all)
    yield "ordered: all lost", build(committed, _nothing)
    yield "ordered: data lost", build(set(names), _nothing)
    yield "ordered: data zero", build(set(names), _zeros)
    yield "weak: all lost", build(forced, _nothing)
    yield "weak: names lost", build(forced, _all)
    for _ in range(rounds):
        torn = _torn(chance)
        until = chance.randint(journal, len(done))
        yield "ordered: torn", build({n for n in names if n < until}, torn)
        yield "weak: torn", build(_some(done, names, forced, chance, CHANCE), torn)
        yield "weak: few names lost", build(_some(done, names, forced, chance, 0.9), _all)


def _last_syncs(done: Sequence[Operation]) -> dict[int, int]:
    """Returns the place of each inode's last sync."""
    return {
        operation.inode: place
        for place, operation in enumerate(done)
        if isinstance(operation, Sync)
    }


def _touched(operation: Operation) -> list[tuple[int, str]]:
    """Returns the names that an operation changes: directory and name."""
    match operation:
        case Create(directory, name) | Remove(directory, name):
            return [(directory, name)]
        case Rename(directory, name, new_directory, new_name):
            return [(directory, name), (new_directory, new_name)]
        case _:
            return []


def _is_forced(operation: Operation, place: int, synced: dict[int, int]) -> bool:
    """Says whether a directory of the operation was synced after it."""
    return any(place < synced.get(directory, -1) for directory, _ in _touched(operation))


def _with_earlier(done: Sequence[Operation], kept: set[int]) -> set[int]:
    """Adds what came before on the same names: changes of one name stay in order."""
    closed: set[int] = set()
    names: set[tuple[int, str]] = set()
    for place in range(len(done) - 1, -1, -1):
        touched = _touched(done[place])
        if place in kept or names & set(touched):
            closed.add(place)
            names |= set(touched)
    return closed


def _some(
    done: Sequence[Operation],
    names: Sequence[int],
    forced: set[int],
    chance: random.Random,
    share: float,
) -> set[int]:
    """Draws name operations that may have reached the disk, besides those that have."""
    lost: set[tuple[int, str]] = set()
    kept = set()
    for place in names:
        touched = _touched(done[place])
        possible = not lost & set(touched) and chance.random() < share
        if place in forced or possible:
            kept.add(place)
        else:
            lost |= set(touched)
    return kept


def _build(
    before: Tree,
    done: Sequence[Operation],
    kept: set[int],
    synced: dict[int, int],
    data: Data,
) -> Tree:
    """Returns the tree with the kept names and what survives of each file's data."""
    tree = Tree()
    tree.inodes = {
        number: Inode(inode.kind, inode.data, dict(inode.names), inode.target)
        for number, inode in before.inodes.items()
    }
    unsynced: dict[int, list[DataOperation]] = defaultdict(list)
    owned: set[int] = set()
    for place, operation in enumerate(done):
        if isinstance(operation, Create):
            tree.inodes[operation.inode] = Inode(operation.kind, bytearray(), {}, operation.target)
            owned.add(operation.inode)
        if place in kept:
            _apply_name(tree, operation)
        if isinstance(operation, DataOperation):
            if operation.inode not in owned:
                inode = tree.inodes[operation.inode]
                inode.data = bytearray(inode.data)
                owned.add(operation.inode)
            if place < synced.get(operation.inode, -1):
                tree.apply(operation)
            else:
                unsynced[operation.inode].append(operation)
    for number, operations in unsynced.items():
        data(tree.inodes[number].data, operations)
    return tree


def _apply_name(tree: Tree, operation: Operation) -> None:
    match operation:
        case Create(directory, name, inode):
            tree.inodes[directory].names[name] = inode
        case Rename(directory, name, new_directory, new_name, inode):
            del tree.inodes[directory].names[name]
            tree.inodes[new_directory].names[new_name] = inode
        case Remove(directory, name):
            del tree.inodes[directory].names[name]


# What survives of a file's data.


def _put(content: bytearray, offset: int, data: bytes) -> None:
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data


def _resize(content: bytearray, size: int) -> None:
    content.extend(bytes(max(0, size - len(content))))
    del content[size:]


def _nothing(content: bytearray, operations: Sequence[DataOperation]) -> None:
    """No operation has reached the disk."""


def _all(content: bytearray, operations: Sequence[DataOperation]) -> None:
    """All have."""
    for operation in operations:
        if isinstance(operation, Write):
            _put(content, operation.offset, operation.data)
        else:
            _resize(content, operation.size)


def _zeros(content: bytearray, operations: Sequence[DataOperation]) -> None:
    """The lengths have, and what was never written before reads as zeros."""
    for operation in operations:
        if isinstance(operation, Write):
            _resize(content, max(len(content), operation.offset + len(operation.data)))
        else:
            _resize(content, operation.size)


def _torn(chance: random.Random) -> Data:
    """Some sectors of the first so many operations have."""

    def tear(content: bytearray, operations: Sequence[DataOperation]) -> None:
        for operation in operations[: chance.randint(0, len(operations))]:
            if isinstance(operation, Truncate):
                _resize(content, operation.size)
                continue
            for start, piece in _sectors(operation, chance.choice((512, 4096))):
                if chance.random() < CHANCE:
                    _put(content, start, piece)

    return tear


def _sectors(write: Write, sector: int) -> Iterator[tuple[int, bytes]]:
    """Yields the parts of a write by sectors of the file."""
    end = write.offset + len(write.data)
    start = write.offset
    while start < end:
        stop = min(end, (start // sector + 1) * sector)
        yield start, write.data[start - write.offset : stop - write.offset]
        start = stop
