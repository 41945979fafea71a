"""What a process asks the kernel to write, as strace saw it: a log of operations on inodes.

The process is run under `strace -f`, so its children, SQLite's own writes and python-tuf's are in
the log without their knowing. Everything outside of one directory is left out. A call that writes
and is not known here is an error, so that nothing can be written behind the log's back.

Left out on purpose: modes and times (nothing reads them after a crash), and `state.sqlite-shm`,
which SQLite maps into memory and rebuilds from the log at each first opening.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Kind = str  # "file", "directory" or "symlink"


@dataclass(frozen=True)
class Create:
    """A new inode under a new name."""

    directory: int
    name: str
    inode: int
    kind: Kind
    target: str = ""


@dataclass(frozen=True)
class Write:
    """Bytes into a file."""

    inode: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class Truncate:
    """A file's new length."""

    inode: int
    size: int


@dataclass(frozen=True)
class Rename:
    """A name of `inode` moved, atomically, over what had the new name."""

    directory: int
    name: str
    new_directory: int
    new_name: str
    inode: int


@dataclass(frozen=True)
class Remove:
    """A name taken away."""

    directory: int
    name: str


@dataclass(frozen=True)
class Sync:
    """A file's content, or a directory's names, forced to the disk."""

    inode: int


@dataclass(frozen=True)
class Say:
    """A line on the standard output that begins with `PROMISE`: what is promised by then."""

    line: str


PROMISE = b"reached "
"""How a line on the standard output begins that is a promise."""

Operation = Create | Write | Truncate | Rename | Remove | Sync | Say

_CALLS = (
    "open,openat,creat,close,lseek,read,write,pwrite64,writev,pwritev,pwritev2,truncate,ftruncate,"
    "fallocate,copy_file_range,sendfile,splice,link,linkat,symlink,symlinkat,rename,renameat,"
    "renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,fsync,fdatasync,sync,syncfs,sync_file_range,"
    "msync,mmap,mknod,mknodat"
)
_HARMLESS = {"close", "read", "sync_file_range", "msync"}
_LINE = re.compile(r"^(\d+) +(\w+)\((.*)\) += (-?\d+|\?)")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_DESCRIPTOR = re.compile(r"^(-?\d+|AT_FDCWD)(?:<((?:\\x[0-9a-f]{2})*)>(?:\(deleted\))?)?$")


class UnknownCallError(AssertionError):
    """The trace has a call that this module does not model."""


def trace(command: Sequence[str | Path], root: Path, *, environment: Mapping[str, str]) -> Log:
    """Runs a command under strace and returns what it wrote below `root`.

    Args:
        command: The program and its arguments.
        root: The directory to watch. What is there before is taken as being on the disk.
        environment: Of the command.

    Raises:
        AssertionError: The command fails.
        UnknownCallError: It writes in a way that is not modelled.
    """
    log = Log(root)
    with tempfile.NamedTemporaryFile(prefix="trimtab-strace-") as output:
        watched = ["strace", "-f", "-y", "-xx", "-s", "100000000", "-e", f"trace={_CALLS}"]
        done = subprocess.run(
            [*watched, "-e", "signal=none", "-o", output.name, *command],
            env=dict(environment),
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()[-3000:]
        with Path(output.name).open(encoding="ascii") as lines:
            log.read(_whole_lines(lines))
    return log


def _whole_lines(lines: Iterable[str]) -> Iterator[str]:
    """Joins calls that strace cut in two because another thread spoke in between."""
    begun: dict[str, str] = {}
    for line in lines:
        process, _, rest = line.rstrip("\n").partition(" ")
        if rest.endswith("<unfinished ...>"):
            begun[process] = line[: line.index("<unfinished ...>")].rstrip()
        elif "resumed>" in rest:
            yield begun.pop(process) + rest[rest.index("resumed>") + len("resumed>") :]
        else:
            yield line.rstrip("\n")


class Log:
    """The operations, and the tree that they were made on.

    Attributes:
        before: The tree at the start.
        operations: What was done, in the order in which the calls returned.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.before = Tree.of(root)
        self.operations: list[Operation] = []
        self._now = Tree.of(root)
        self._offsets: dict[tuple[str, str], int] = {}

    def read(self, lines: Iterator[str]) -> None:
        """Adds the calls in strace's output."""
        for line in lines:
            match = _LINE.match(line)
            if match is None:
                assert re.search(r"\+\+\+ |--- |resumed|= \?$", line), line[:300]
                continue
            process, call, arguments, result = match.groups()
            if result.startswith("-") or result == "?" or call in _HARMLESS:
                continue
            self._call(process, call, _split(arguments), int(result))

    def _call(self, process: str, call: str, arguments: list[str], result: int) -> None:
        method = getattr(self, f"_{call}", None)
        if method is not None:
            method(arguments, result)
        elif any(self._inside(text) for text in _paths(arguments)):
            raise UnknownCallError(f"{call}({', '.join(a[:100] for a in arguments)})")

    def _do(self, operation: Operation) -> None:
        self.operations.append(operation)
        self._now.apply(operation)

    def _inside(self, path: str) -> bool:
        return path == str(self.root) or path.startswith(f"{self.root}/")

    def _place(self, path: str) -> tuple[int, str] | None:
        """Returns the directory's inode and the name of a path, or None outside of the root."""
        if not self._inside(path) or path == str(self.root):
            return None
        directory, name = os.path.split(path)
        return self._now.find(os.path.relpath(directory, self.root)), name

    def _file(self, descriptor: str) -> tuple[int, str] | None:
        """Returns the inode and path of an open file below the root that still has a name."""
        path = _descriptor_path(descriptor)
        if path is None or not self._inside(path) or path.endswith("-shm"):
            return None
        inode = self._now.lookup(os.path.relpath(path, self.root))
        return None if inode is None else (inode, path)

    # The calls. Those with a directory descriptor end as those without.

    def _openat(self, arguments: list[str], result: int) -> None:
        self._open([_join(arguments[0], arguments[1]), *arguments[2:]], result)

    def _creat(self, arguments: list[str], result: int) -> None:
        self._open([arguments[0], "O_CREAT|O_TRUNC"], result)

    def _open(self, arguments: list[str], result: int) -> None:
        path, flags = _path(arguments[0]), arguments[1].split("|")
        place = self._place(path)
        if place is None or path.endswith("-shm"):
            return
        assert "O_TMPFILE" not in flags, "unnamed files are not modelled"
        self._offsets[str(result), path] = APPENDING if "O_APPEND" in flags else 0
        inode = self._now.lookup(os.path.relpath(path, self.root))
        if inode is None and "O_CREAT" in flags:
            self._do(Create(*place, self._now.next_inode(), "file"))
        elif inode is not None and "O_TRUNC" in flags:
            self._do(Truncate(inode, 0))

    def _lseek(self, arguments: list[str], result: int) -> None:
        if file := self._file(arguments[0]):
            self._offsets[arguments[0].partition("<")[0], file[1]] = result

    def _write(self, arguments: list[str], result: int) -> None:
        if arguments[0].startswith("1<") and _bytes(arguments[1]).startswith(PROMISE):
            text = _bytes(arguments[1]).decode()
            self.operations += [Say(line) for line in text.splitlines()]
        elif file := self._file(arguments[0]):
            data = _bytes(arguments[1])[:result]
            self._do(Write(file[0], self._advance(arguments[0], file, result), data))

    def _advance(self, descriptor: str, file: tuple[int, str], count: int) -> int:
        """Returns where a sequential write goes, and moves the offset behind it.

        A file that was renamed since it was opened would have no offset: an error, not a guess.
        """
        key = descriptor.partition("<")[0], file[1]
        offset = self._offsets[key]
        if offset == APPENDING:
            return len(self._now.inodes[file[0]].data)
        self._offsets[key] = offset + count
        return offset

    def _writev(self, arguments: list[str], result: int) -> None:
        if file := self._file(arguments[0]):
            pieces = [_bytes(a[a.index('"') :]) for a in arguments if "iov_base=" in a]
            data = b"".join(pieces)[:result]
            self._do(Write(file[0], self._advance(arguments[0], file, result), data))

    def _pwrite64(self, arguments: list[str], result: int) -> None:
        if file := self._file(arguments[0]):
            self._do(Write(file[0], int(arguments[3]), _bytes(arguments[1])[:result]))

    def _ftruncate(self, arguments: list[str], result: int) -> None:
        if file := self._file(arguments[0]):
            self._do(Truncate(file[0], int(arguments[1])))

    def _mkdirat(self, arguments: list[str], result: int) -> None:
        self._mkdir([_join(arguments[0], arguments[1])], result)

    def _mkdir(self, arguments: list[str], result: int) -> None:
        if place := self._place(_path(arguments[0])):
            self._do(Create(*place, self._now.next_inode(), "directory"))

    def _symlinkat(self, arguments: list[str], result: int) -> None:
        self._symlink([arguments[0], _join(arguments[1], arguments[2])], result)

    def _symlink(self, arguments: list[str], result: int) -> None:
        if place := self._place(_path(arguments[1])):
            target = _bytes(arguments[0]).decode()
            self._do(Create(*place, self._now.next_inode(), "symlink", target))

    def _renameat(self, arguments: list[str], result: int) -> None:
        self._rename([_join(arguments[0], arguments[1]), _join(arguments[2], arguments[3])], result)

    def _rename(self, arguments: list[str], result: int) -> None:
        old, new = (self._place(_path(argument)) for argument in arguments)
        assert (old is None) == (new is None), "a name moved over the watched directory's edge"
        if old and new:
            self._do(Rename(*old, *new, self._now.inodes[old[0]].names[old[1]]))

    def _unlinkat(self, arguments: list[str], result: int) -> None:
        self._unlink([_join(arguments[0], arguments[1])], result)

    def _unlink(self, arguments: list[str], result: int) -> None:
        path = _path(arguments[0])
        place = self._place(path)
        if place and not path.endswith("-shm"):
            self._do(Remove(*place))

    _rmdir = _unlink

    def _fsync(self, arguments: list[str], result: int) -> None:
        if file := self._file(arguments[0]):
            self._do(Sync(file[0]))

    _fdatasync = _fsync

    def _mmap(self, arguments: list[str], result: int) -> None:
        if "MAP_SHARED" in arguments[3] and "PROT_WRITE" in arguments[2]:
            assert self._file(arguments[4]) is None, f"a shared mapping is written: {arguments}"


@dataclass
class Inode:
    """A file's bytes, a directory's names, or a symlink's target."""

    kind: Kind
    data: bytearray
    names: dict[str, int]
    target: str = ""


ROOT = 0
APPENDING = -1
"""In place of an offset: every write goes to the end."""


class Tree:
    """A small file system in memory."""

    def __init__(self) -> None:
        self.inodes: dict[int, Inode] = {ROOT: Inode("directory", bytearray(), {})}

    @classmethod
    def of(cls, root: Path) -> Tree:
        """Reads a directory from the disk."""
        tree = cls()
        tree._read(root, ROOT)
        return tree

    def _read(self, directory: Path, inode: int) -> None:
        for path in sorted(directory.iterdir()):
            number = self.next_inode()
            if path.is_symlink():
                self.apply(Create(inode, path.name, number, "symlink", str(path.readlink())))
            elif path.is_dir():
                self.apply(Create(inode, path.name, number, "directory"))
                self._read(path, number)
            else:
                self.apply(Create(inode, path.name, number, "file"))
                self.inodes[number].data[:] = path.read_bytes()

    def next_inode(self) -> int:
        """Returns a number that was never used."""
        return len(self.inodes)

    def lookup(self, path: str) -> int | None:
        """Returns the inode at a relative path, or None."""
        inode: int | None = ROOT
        for part in Path(path).parts:
            inode = None if inode is None else self.inodes[inode].names.get(part)
        return inode

    def find(self, path: str) -> int:
        """Returns the inode at a relative path that must be there."""
        inode = self.lookup(path)
        assert inode is not None, f"{path} is not in the log's tree"
        return inode

    def apply(self, operation: Operation) -> None:
        """Does one operation."""
        match operation:
            case Create(directory, name, inode, kind, target):
                self.inodes[inode] = Inode(kind, bytearray(), {}, target)
                self.inodes[directory].names[name] = inode
            case Write(inode, offset, data):
                content = self.inodes[inode].data
                content.extend(bytes(max(0, offset - len(content))))
                content[offset : offset + len(data)] = data
            case Truncate(inode, size):
                content = self.inodes[inode].data
                content.extend(bytes(max(0, size - len(content))))
                del content[size:]
            case Rename(directory, name, new_directory, new_name, inode):
                del self.inodes[directory].names[name]
                self.inodes[new_directory].names[new_name] = inode
            case Remove(directory, name):
                del self.inodes[directory].names[name]
            case Sync() | Say():
                pass

    def write_to(self, root: Path, inode: int = ROOT) -> None:
        """Makes the tree on the disk; `root` must not exist."""
        root.mkdir()
        for name, number in self.inodes[inode].names.items():
            child = self.inodes[number]
            if child.kind == "directory":
                self.write_to(root / name, number)
            elif child.kind == "symlink":
                (root / name).symlink_to(child.target)
            else:
                (root / name).write_bytes(child.data)


def _split(arguments: str) -> list[str]:
    """Splits a call's arguments; strings are in hexadecimal, so a comma always separates."""
    return [argument.strip() for argument in arguments.split(",")]


def _bytes(argument: str) -> bytes:
    match = _STRING.match(argument)
    assert match, f"no string: {argument[:100]}"
    return bytes.fromhex(match[1].replace("\\x", ""))


def _path(argument: str) -> str:
    """Returns an absolute, normal path; the traced command is given absolute ones only."""
    return os.path.normpath(_bytes(argument).decode())


def _descriptor_path(argument: str) -> str | None:
    match = _DESCRIPTOR.match(argument)
    if not match or match[2] is None or argument.endswith("(deleted)"):
        return None
    return bytes.fromhex(match[2].replace("\\x", "")).decode()


def _join(directory: str, argument: str) -> str:
    """Returns a path argument made absolute by the directory descriptor before it, as strace's."""
    path = str(Path(_descriptor_path(directory) or "/") / _bytes(argument).decode())
    return '"' + "".join(f"\\x{byte:02x}" for byte in path.encode()) + '"'


def _paths(arguments: list[str]) -> Iterator[str]:
    """Yields whatever in the arguments may be a path."""
    for argument in arguments:
        if _STRING.match(argument):
            yield _bytes(argument).decode(errors="replace")
        elif path := _descriptor_path(argument):
            yield path
