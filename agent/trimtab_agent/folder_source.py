"""A folder as a source: a USB stick, or a directory that a plant shares.

The folder is somebody else's. What is in it is checked by whoever reads; what it *is* is checked
here: only regular files below the folder are opened. A link could point at any file of the
device, and opening a named pipe would wait for ever.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from trimtab_agent.contract import layout
from trimtab_agent.contract.manifest import Chunk
from trimtab_agent.errors import DocumentMissingError, FormatError, NetworkError

_PIECE_BYTES = 64 * 1024
_STEP = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK, opening a pipe waits for its writer (open(2)). Regular files ignore it.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Folder:
    """Documents, chunks and assignments in a folder (`sources.Documents`, `sources.Chunks`).

    Args:
        path: The folder, laid out as `contract.layout` says. It need not be there yet: a stick
            may be put in later.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return f"file:{self._path}"

    def read(self, name: str) -> Iterator[bytes]:
        """See `sources.Documents`. At most `layout.MAX_DOCUMENT_BYTES` are read."""
        path = layout.document(name)
        yield from self._pieces(path, layout.MAX_DOCUMENT_BYTES)

    def fetch(
        self, chunks: Iterable[Chunk], *, stop: Callable[[], bool]
    ) -> Iterator[tuple[Chunk, bytes]]:
        """See `sources.Chunks`. Of a file that is too long, one byte too many is read."""
        missing: list[Chunk] = []
        for chunk in chunks:
            if stop():
                return
            try:
                wire = self._whole(layout.blob(chunk.sha256), chunk.wire_bytes + 1)
            except (DocumentMissingError, FormatError):
                missing.append(chunk)
            else:
                yield chunk, wire
        if missing:
            raise NetworkError(
                f"{self} lacks {len(missing)} of the chunks, the first is "
                f"{missing[0].sha256[:12]}: was it written to the end?"
            )

    def assignment(self, device: str) -> bytes | None:
        """Returns the signed assignment for `device`, or None where there is none.

        Raises:
            CallerError: The device id cannot be used.
            FormatError: What lies there is no assignment.
            NetworkError: The folder cannot be read.
        """
        try:
            return b"".join(self._pieces(layout.assignment(device), layout.MAX_ASSIGNMENT_BYTES))
        except DocumentMissingError:
            return None

    def _whole(self, path: str, limit_bytes: int) -> bytes:
        """Returns the first `limit_bytes` of a file."""
        with self._errors(path), os.fdopen(self._open(path), "rb", buffering=0) as file:
            data = bytearray()
            while len(data) < limit_bytes and (piece := file.read(limit_bytes - len(data))):
                data += piece
            return bytes(data)

    def _pieces(self, path: str, limit_bytes: int) -> Iterator[bytes]:
        """Yields a file that must not be longer than `limit_bytes`."""
        left_bytes = limit_bytes
        with self._errors(path), os.fdopen(self._open(path), "rb", buffering=0) as file:
            while piece := file.read(_PIECE_BYTES):
                left_bytes -= len(piece)
                if left_bytes < 0:
                    raise FormatError(f"{self}: {path} is longer than {limit_bytes} bytes")
                yield piece

    def _open(self, path: str) -> int:
        """Opens a regular file below the folder, following no link on the way.

        Raises:
            OSError: There is none.
            FormatError: It is no regular file.
        """
        *folders, name = path.split("/")
        with contextlib.ExitStack() as opened:
            # The folder itself may be a link: its owner named it.
            here = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.callback(os.close, here)
            for folder in folders:
                here = os.open(folder, _STEP, dir_fd=here)
                opened.callback(os.close, here)
            descriptor = os.open(name, _FILE, dir_fd=here)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise FormatError(f"{self}: {path} is no regular file")
        return descriptor

    @contextlib.contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            # An empty mount point says nothing about what is on the stick.
            if not (self._path / "doc").is_dir():
                raise NetworkError(
                    f"{self} holds no Trimtab folder (no 'doc' in it): is it mounted?"
                ) from error
            raise DocumentMissingError(f"{self} has no {path}") from error
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.ENOTDIR, errno.ENXIO}:
                raise FormatError(f"{self}: {path} is a link, or no file") from error
            raise NetworkError(f"{self}: {path} cannot be read: {error.strerror}") from error
