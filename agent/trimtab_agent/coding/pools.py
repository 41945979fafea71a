"""Small tensors that are decoded as one.

A step of the decoder costs the same for one lane and for hundreds, and so does the reading of a
table. A model of a hundred tensors of some kilobytes would take a hundred times both. So tensors
with elements of the same kind stand one behind the other in a pool, which has lanes of its own and
few tables; a pool is decoded at once, and tensors are taken from it as their turn comes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trimtab_agent.coding.methods import element_width, joined
from trimtab_agent.coding.source import Source
from trimtab_agent.coding.symbols import Payload, plane_reader
from trimtab_agent.errors import FormatError

MAX_POOL_BYTES = 1 << 19
"""The pools of a block together: they are in memory until all is taken."""


class Pools:
    """The pools of a block."""

    def __init__(self) -> None:
        self._pools: list[Source] = []
        self._size_bytes = 0

    def add(self, records: Source, source: Source, size_bytes: int) -> None:
        """Decodes a pool.

        Args:
            records: The block's records, behind the pool's size.
            source: The payload, at the pool.
            size_bytes: Of the pool, decoded.

        Raises:
            FormatError: Pools are too large together, or malformed.
        """
        self._size_bytes += size_bytes
        if self._size_bytes > MAX_POOL_BYTES:
            raise FormatError(f"pools of {self._size_bytes} bytes; at most {MAX_POOL_BYTES}")
        lanes, form = records.varint(), records.byte()
        width = element_width(form)
        if size_bytes % width:
            raise FormatError(f"a pool of {size_bytes} bytes has elements of {width}")
        count = size_bytes // width
        planes = [plane_reader(records, pooled=count) for _ in range(width)]
        payload = Payload.open(source, lanes)
        octets: NDArray[np.uint8] = np.empty((count, width), np.uint8)
        # The highest first: exponents are coded, and the last bits of mantissas can be the rest.
        for index, plane in zip(reversed(range(width)), planes, strict=True):
            octets[:, index] = plane(payload)(count)
        payload.check_end()
        self._pools.append(Source([joined(octets, form).data.cast("B")]))

    def take(self, records: Source, size_bytes: int) -> bytes:
        """Returns the next tensor of a pool.

        Args:
            records: The block's records, behind the tensor's size.
            size_bytes: Of the tensor.

        Raises:
            FormatError: There is no such pool, or less in it.
        """
        number = records.byte()
        if number >= len(self._pools):
            raise FormatError(f"a tensor is in pool {number} of {len(self._pools)}")
        return self._pools[number].read(size_bytes)

    def check_end(self) -> None:
        """Checks that all was taken.

        Raises:
            FormatError: Something is left.
        """
        for pool in self._pools:
            pool.check_end()
