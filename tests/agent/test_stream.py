"""Golden vectors of the coded stream, and what a hostile one is told."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

from trimtab_agent.coding.source import Source
from trimtab_agent.coding.stream import MAX_HEADER_BYTES, decode_stream
from trimtab_agent.errors import FormatError

VECTORS = json.loads((Path(__file__).parent / "data" / "streams.json").read_text())


class Bytes:
    def __init__(self, data):
        self._data = data

    def read(self, offset, count):
        if offset + count > len(self._data):
            raise FormatError("past the end")
        return self._data[offset : offset + count]


def decoded(stream, size_bytes, base=b""):
    return b"".join(decode_stream([stream], size_bytes, base=Bytes(base)))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_a_stream_of_the_format_decodes_for_ever(vector):
    content = decoded(
        bytes.fromhex(vector["stream"]), vector["size_bytes"], bytes.fromhex(vector["base"])
    )
    assert hashlib.sha256(content).hexdigest() == vector["sha256"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_a_byte_that_is_missing_or_changed_is_noticed_or_harmless(vector):
    """Never another error than the one, never another length."""
    stream = bytes.fromhex(vector["stream"])
    base = bytes.fromhex(vector["base"])
    for at in range(0, len(stream), 1 + len(stream) // 200):
        for damaged in (
            stream[:at],
            stream[:at] + stream[at + 1 :],
            stream[:at] + bytes([stream[at] ^ 0xFF]) + stream[at + 1 :],
        ):
            try:
                content = decoded(damaged, vector["size_bytes"], base)
            except FormatError:
                continue
            assert len(content) == vector["size_bytes"]


def block(records, *, form=1, lanes=0, payload=b"", segments=1, literals=b""):
    header = bytes([lanes, segments, len(records)]) + records + literals
    return bytes([form, len(header), len(header)]) + header + payload


def zstd(data):
    parameters = zstandard.ZstdCompressionParameters.from_level(
        19, write_content_size=False, format=zstandard.FORMAT_ZSTD1_MAGICLESS
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compress(data)


BYTES = b"\x01\x08\x01"
"""The record of 8 elements of one byte, before its plane."""

REST = b"\x00\x01\x06"
"""What follows the size in the record of a pool without lanes: bytes as they are."""

BYTES_8 = b"abcdefgh"


def pool(record, payload):
    return block(b"\x08" + record + b"\x09\x08\x00", form=2, segments=2, payload=payload)


HOSTILE = {
    "unknown form": (b"\x07", "unknown form 7: update Trimtab"),
    "no end of an integer": (b"\x01" + b"\xff" * 9, "more than 6 bytes"),
    "huge header": (b"\x01\x00\x80\x80\x40", f"at most {MAX_HEADER_BYTES}"),
    "stored longer": (b"\x01\x05\x04", "header of 4 bytes in 5"),
    "header bomb": (
        b"\x01\x13\x80\x01" + zstd(bytes(10**6))[:19].ljust(19, b"\0"),
        "does not decode to 128 bytes|unreadable zstd frame",
    ),
    "too many lanes": (b"\x01\x05\x05\x81\x80\x01\x00\x00", "16385 lanes, more than 16384"),
    "unknown method": (block(b"\x0a\x08", form=2), "unknown method 10"),
    "pool in form 1": (block(b"\x08\x08" + REST), "unknown method 8"),
    "rest in form 1": (block(BYTES + b"\x06"), "unknown coding 6"),
    "rest in no pool": (block(BYTES + b"\x06", form=2), "unknown coding 6"),
    "pool that is not there": (block(b"\x09\x08\x00", form=2), "in pool 0 of 0"),
    "pool too small": (pool(b"\x07" + REST, b"1234567"), "ends 1 bytes early"),
    "pool not all taken": (
        block(
            b"\x08\x08" + REST + b"\x00\x08",
            form=2,
            segments=2,
            payload=BYTES_8,
            literals=BYTES_8,
        ),
        "goes on",
    ),
    "pool of odd size": (pool(b"\x07\x00\x02\x06\x06", BYTES_8), "7 bytes has elements of 2"),
    "lanes of a pool": (pool(b"\x08\x81\x80\x01\x01\x06", BYTES_8), "16385 lanes"),
    "no runs": (pool(b"\x08\x00\x01\x05\x00", BYTES_8), "0 runs"),
    "runs too short": (pool(b"\x08\x00\x01\x05\x01\x07\x00", BYTES_8), "7 elements with 1 tables"),
    "runs of many tables": (pool(b"\x08\x00\x01\x05\x01\x08\x20", BYTES_8), "with 33 tables"),
    "runs without lanes": (
        pool(b"\x08\x00\x01\x07\x01\x08\x00\x00\x01\x01\x02\x00", BYTES_8),
        "block without lanes",
    ),
    "lane that carries too much": (
        pool(b"\x08\x01\x01\x06", b"\0\0\2\0" + BYTES_8),
        "symbols of a pool do not add up",
    ),
    "past the file": (block(b"\x01\x09"), "9 bytes where 8 are left"),
    "nothing": (block(b"\x01\x00"), "0 bytes where 8 are left"),
    "odd width": (block(b"\x01\x08\x03"), "have 3 bytes, not 1, 2, 4 or 8"),
    "unknown coding": (block(BYTES + b"\x09"), "unknown coding 9"),
    "packing": (block(BYTES + b"\x01\x09\x02"), "9 symbols below 2 do not fit"),
    "packing of none": (block(BYTES + b"\x01\x00\x02"), "0 symbols below 2 do not fit"),
    "entropy without lanes": (
        block(BYTES + b"\x03\x01\x00\x01\x01\x02\x00"),
        "block without lanes",
    ),
    "table too long": (block(BYTES + b"\x03\x01\xff\x01\x01"), "2 symbols from 255"),
    "table of one": (block(BYTES + b"\x03\x01\x00\x00\x01\x02"), "table .* out of range"),
    "levels": (block(BYTES + b"\x04\x00\x01"), "0 x 1 levels"),
    "high level": (block(BYTES + b"\x04\x01\x01\x20\x00"), "a level .* is 32, not below 32"),
    "sum of levels": (block(BYTES + b"\x04\x01\x01\x1f\x1f"), "call for 63 tables"),
    "grid without rows": (block(b"\x04\x08\x00\x01"), "grid of 0 rows"),
    "grid of many rows": (block(b"\x04\x08\x09\x01"), "grid of 9 rows"),
    "sparse in sparse": (
        block(b"\x03\x08" + b"\x01\x00\x01\x03" * 4),
        "unknown method 3",
    ),
    "other width inside": (
        block(b"\x03\x08\x02\x00\x01\x01\x01\x00\x00"),
        "1 bytes stand where 2 are expected",
    ),
    "part of an element": (
        block(b"\x01\x07\x02\x00\x01\x00\x02\x01\x01\x00", segments=2),
        "7 bytes has elements of 2",
    ),
    "frame too long": (block(BYTES + b"\x02\x01", payload=b"\x80\x01"), "frame of 128 bytes"),
    "copy past the end": (block(b"\x05\x08\x01"), "past the end"),
    "patch of too much": (block(b"\x07\x08\x00\x81\x80\x40"), "more than 1048576"),
    "record goes on": (block(BYTES + b"\x00\x05\x00"), "goes on"),
    "literals left over": (block(BYTES + b"\x00\x05", literals=b"x"), "goes on"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_stream_is_a_format_error(case):
    stream, message = HOSTILE[case]
    with pytest.raises(FormatError, match=message):
        decoded(stream, 8, bytes(8))


def test_pools_that_are_too_large_together_are_refused_before_they_are_read():
    record = b"\x08\x80\x80\x20" + REST
    stream = block(record * 2, form=2, segments=2, payload=bytes(1 << 19))
    with pytest.raises(FormatError, match="pools of 1048576 bytes; at most 524288"):
        decoded(stream, 1 << 21)


def test_words_left_over_or_lanes_that_do_not_end_where_they_began_are_noticed():
    table = b"\x03\x01\x00\x01\x01\x02\x00"
    states = (1 << 20).to_bytes(4, "little")
    with pytest.raises(FormatError, match="take more than their 0 words"):
        decoded(block(BYTES + table, lanes=1, payload=states + b"\x00"), 8)
    with pytest.raises(FormatError, match=r"take .* words of 1|do not add up"):
        decoded(block(BYTES + table, lanes=1, payload=states + b"\x01ab"), 8)


def test_a_source_reads_across_pieces():
    source = Source([b"", b"ab", b"", b"cdef", b"g"])
    assert [source.read(1), source.read(4), source.read(0)] == [b"a", b"bcde", b""]
    assert source.read(2) == b"fg"
    source.check_end()


def peak_kib(stream, size_bytes, tmp_path):
    """Returns by how much a process grows that decodes a stream."""
    path = tmp_path / "stream"
    path.write_bytes(stream)
    script = (
        "import resource,sys\n"
        "from trimtab_agent.coding.stream import decode_stream\n"
        "def pieces():\n"
        "    with open(sys.argv[1],'rb') as file:\n"
        "        while piece := file.read(98304): yield piece\n"
        "before=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n"
        "    for _ in decode_stream(pieces(),int(sys.argv[2])): pass\n"
        "except Exception as error: print(type(error).__name__,file=sys.stderr)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss-before)\n"
    )
    command = [sys.executable, "-c", script, str(path), str(size_bytes)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


BOMBS = {
    "zeros in one frame": (b"\x00" + zstd(bytes(300_000_000)), 300_000_000),
    "a frame that promises less": (b"\x00" + zstd(bytes(300_000_000)), 1000),
    "a constant of a gigabyte": (block(b"\x01\x80\x80\x80\x80\x04\x01\x00\x05"), 1 << 30),
}


@pytest.mark.parametrize("case", BOMBS)
def test_a_bomb_takes_bounded_memory(case, tmp_path):
    stream, size_bytes = BOMBS[case]
    assert peak_kib(stream, size_bytes, tmp_path) < 20 * 1024
