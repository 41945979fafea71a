"""Arrays that stay on the disk, read sample by sample: large `.npz` files, and what was spooled.

`numpy.load` cannot map an array inside of an archive. But `numpy.savez` stores arrays as they are,
so that a member's place in the file is all that is needed. What `numpy.savez_compressed` has packed
has no such place: if it is large, it is unpacked once into a temporary file.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from trimtab.errors import DataError
from trimtab.evaluate.data import Array

LARGE_BYTES = 64 * 1024**2
"""Smaller arrays are read whole, which is simpler and faster."""

_LOCAL_HEADER_BYTES = 30
"""PKWARE's APPNOTE.TXT 4.3.7: after these come the name and the extra field, of lengths that the
last four bytes tell."""


class StoredArray:
    """A column in a file. Indexing gives fresh arrays in memory.

    Args:
        array: The file, mapped; the mapping outlives the open file and its name.
    """

    def __init__(self, array: np.memmap[Any, Any]) -> None:
        self._array = array
        self.shape: tuple[int, ...] = array.shape
        self.dtype: np.dtype[Any] = array.dtype

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, index: Any, /) -> Array:
        """Returns a copy, which is aligned as runtimes want it; the mapped bytes may not be."""
        return np.array(self._array[index])

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        """Returns all of it in memory, as NumPy asks: what labels need."""
        return np.array(self._array, dtype)


def read_member(path: Path, archive: zipfile.ZipFile, name: str) -> Array | StoredArray:
    """Reads an array of an `.npz` file, or leaves it there if it is large.

    Args:
        path: The file.
        archive: The same, open.
        name: The array's name.

    Raises:
        ValueError: It holds pickled objects, or is no array.
        OSError: It cannot be read, or there is no room to unpack it.
    """
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as member:
        if info.file_size < LARGE_BYTES:
            array: Array = np.lib.format.read_array(member, allow_pickle=False)
            return array
        if info.compress_type != zipfile.ZIP_STORED:
            with tempfile.TemporaryFile() as unpacked:
                shutil.copyfileobj(member, unpacked)
                return _mapped(unpacked, 0)
    with path.open("rb") as stored:
        stored.seek(info.header_offset + _LOCAL_HEADER_BYTES - 4)
        lengths = stored.read(4)
        header = _LOCAL_HEADER_BYTES + sum(
            int.from_bytes(part, "little") for part in (lengths[:2], lengths[2:])
        )
        return _mapped(stored, info.header_offset + header)


def _mapped(file: IO[bytes], start: int) -> StoredArray:
    """Maps an array in NumPy's NPY format that begins somewhere in a file."""
    file.seek(start)
    version = np.lib.format.read_magic(file)
    read_header = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, is_fortran, dtype = read_header(file)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded when allow_pickle=False")
    order: Literal["C", "F"] = "F" if is_fortran else "C"
    mapped: np.memmap[Any, Any] = np.memmap(
        file, dtype, mode="r", offset=file.tell(), shape=shape, order=order
    )
    return StoredArray(mapped)


def spool(batches: Iterable[Any], what: str) -> StoredArray:
    """Writes what an iterator yields into a temporary file, one batch in memory at a time.

    Args:
        batches: Arrays, samples along axis 0, of one dtype and one shape but for the samples.
        what: For messages.

    Raises:
        DataError: There are none, or they differ.
        OSError: There is no room.
    """
    count = 0
    form: tuple[tuple[int, ...], np.dtype[Any]] | None = None
    with tempfile.TemporaryFile() as file:
        for number, batch in enumerate(batches):
            array = np.asarray(batch)
            if array.dtype.hasobject or array.ndim == 0:
                raise DataError(f"{what}: batch {number} is no array, samples along axis 0")
            form = form or (array.shape[1:], array.dtype)
            if form != (array.shape[1:], array.dtype):
                raise DataError(
                    f"{what}: batch {number} is {array.dtype} {list(array.shape[1:])} a sample, "
                    f"those before it were {form[1]} {list(form[0])}"
                )
            file.write(np.ascontiguousarray(array).data)
            count += len(array)
        if form is None or count == 0:
            raise DataError(f"{what} yields no samples")
        file.flush()
        mapped: np.memmap[Any, Any] = np.memmap(file, form[1], mode="r", shape=(count, *form[0]))
    return StoredArray(mapped)
