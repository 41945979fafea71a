"""A coded stream, read exactly: what is missing or malformed is an error, never a short answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, cast

import zstandard

from trimtab_agent.errors import FormatError

_MAX_WINDOW_BYTES = 8 * 1024 * 1024
"""zstd's own limit for decoders in low memory: RFC 8878, section 3.1.1.1.2 (window descriptor)."""

_MAX_VARINT_BYTES = 6
"""42 bits: no length or offset in a stream is larger."""


class Source:
    """The bytes of a stream, from pieces of any length.

    Args:
        pieces: Consecutive bytes.
    """

    def __init__(self, pieces: Iterable[bytes | memoryview]) -> None:
        self._pieces = iter(pieces)
        self._piece = memoryview(b"")
        self._at = 0

    def read(self, count: int) -> bytes:
        """Returns the next `count` bytes.

        Raises:
            FormatError: The stream ends before.
        """
        stop = self._at + count
        if stop <= len(self._piece):
            taken = self._piece[self._at : stop]
            self._at = stop
            return bytes(taken)
        parts: list[bytes | memoryview] = [self._piece[self._at :]]
        lacking = stop - len(self._piece)
        while lacking:
            piece = next(self._pieces, None)
            if piece is None:
                raise FormatError(f"the coded stream ends {lacking} bytes early")
            self._piece, self._at = memoryview(piece), min(lacking, len(piece))
            parts.append(piece[: self._at])
            lacking -= self._at
        return b"".join(parts)

    def varint(self) -> int:
        """Returns the next unsigned integer: 7 bits a byte, low first, the top bit says "more".

        Raises:
            FormatError: It is longer than any length or offset can be, or the stream ends.
        """
        value = 0
        for index in range(_MAX_VARINT_BYTES):
            byte = self.byte()
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                return value
        raise FormatError(f"an integer in the coded stream has more than {_MAX_VARINT_BYTES} bytes")

    def byte(self) -> int:
        """Returns the next byte.

        Raises:
            FormatError: The stream ends before.
        """
        if self._at == len(self._piece):
            return self.read(1)[0]
        self._at += 1
        return self._piece[self._at - 1]

    def unzstd(self, size_bytes: int, *, piece_bytes: int) -> Iterator[bytes]:
        """Decodes what is left, one zstd frame without magic number.

        Args:
            size_bytes: What it must decode to.
            piece_bytes: No piece that is yielded is longer.

        Raises:
            FormatError: It is no such frame, or decodes to another length.
        """
        stream = cast("IO[bytes]", _Readable(self))
        with _decoder().stream_reader(stream) as reader:
            left = size_bytes
            while left:
                with _readable_frames():
                    piece = reader.read(min(left, piece_bytes))
                if not piece:
                    raise FormatError(f"a zstd frame in the coded stream ends {left} bytes early")
                left -= len(piece)
                yield piece
            with _readable_frames():
                if reader.read(1):
                    raise FormatError("a zstd frame in the coded stream is longer than its file")
        self.check_end()

    def read_some(self, count: int) -> bytes:
        """Returns at least one and at most `count` bytes, or none at the end."""
        while self._at == len(self._piece):
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._piece, self._at = memoryview(piece), 0
        return self.read(min(count, len(self._piece) - self._at))

    def check_end(self) -> None:
        """Checks that nothing is left.

        Raises:
            FormatError: There are more bytes.
        """
        if self._at < len(self._piece) or any(len(piece) for piece in self._pieces):
            raise FormatError("the coded stream goes on after its file is complete")


class _Readable:
    """What zstandard reads from."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def read(self, count: int) -> bytes:
        return self._source.read_some(count)


@contextmanager
def _readable_frames() -> Iterator[None]:
    try:
        yield
    except zstandard.ZstdError as error:
        raise FormatError(f"the coded stream holds an unreadable zstd frame: {error}") from error


def _decoder(prefix: bytes = b"") -> zstandard.ZstdDecompressor:
    return zstandard.ZstdDecompressor(
        dict_data=zstandard.ZstdCompressionDict(prefix, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        if prefix
        else None,
        # The one-shot decompress() would allocate whatever the frame's header claims.
        max_window_size=_MAX_WINDOW_BYTES,
        format=zstandard.FORMAT_ZSTD1_MAGICLESS,
    )


def unzstd(frame: bytes, size_bytes: int, *, prefix: bytes = b"") -> bytes:
    """Decodes one zstd frame without magic number, stopping one byte past `size_bytes`.

    Args:
        frame: The frame.
        size_bytes: What it must decode to.
        prefix: Content that the frame may refer back to (zstd's raw-content dictionary).

    Raises:
        FormatError: It is no such frame, or decodes to another length.
    """
    with _readable_frames(), _decoder(prefix).stream_reader(frame) as reader:
        data = reader.read(size_bytes + 1)
    if len(data) != size_bytes:
        raise FormatError(f"a zstd frame in the coded stream does not decode to {size_bytes} bytes")
    return data
