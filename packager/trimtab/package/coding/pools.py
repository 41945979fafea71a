"""Small tensors with elements of the same kind, coded as one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from trimtab.package.coding.payload import Payload, Tables, varint
from trimtab.package.coding.planes import make_table
from trimtab.package.coding.tensors import CodedTensor, Tensor, byte_planes
from trimtab_agent.coding.contexts import MAX_RUNS, MAX_TABLES, Runs
from trimtab_agent.coding.methods import ROTATED, Method
from trimtab_agent.coding.pools import MAX_POOL_BYTES
from trimtab_agent.coding.symbols import Coding
from trimtab_agent.coding.tables import SYMBOLS

Symbols = NDArray[np.uint8]
Counts = NDArray[np.int64]

_MEMBER_BYTES = 1 << 18
"""Larger tensors feed enough lanes by themselves."""

_ALLOWED = 1.007
"""A pool may be larger than its members by this factor: their lanes, 0.4 %, are not in their costs,
and it decodes several times as fast."""

_WORTH_DECODING = 0.98
"""A plane is entropy-coded only where that makes it smaller by this factor. The highest byte of a
mantissa has 7.95 bits: to code it would take as long as the exponents, for 0.2 % of a float."""

_TABLE_BYTES, _SYMBOL_BYTES = 40, 0.4
"""What a table costs, and each of its symbols: their bytes, and the time to read them."""

_STEP = 2
"""Of a table's codes, in eighths of an octave."""


@dataclass(frozen=True)
class Pool:
    """A pool.

    Attributes:
        members: Which tensors are in it, by their places in the block.
        record: As in the block's header.
        body: As in the block's payload.
    """

    members: tuple[int, ...]
    record: bytes
    body: bytes


def make_pools(tensors: Sequence[CodedTensor | None]) -> list[Pool]:
    """Returns the pools that a block should have.

    Args:
        tensors: What the block consists of; None for literals.
    """
    kinds: defaultdict[tuple[int, bool], list[int]] = defaultdict(list)
    room = MAX_POOL_BYTES
    for place, coded in enumerate(tensors):
        if coded is None or coded.dense is None:
            continue
        size = coded.dense.elements.nbytes
        kind = kinds[coded.dense.width, coded.dense.is_float]
        if size <= min(_MEMBER_BYTES, room) and len(kind) < MAX_RUNS:
            kind.append(place)
            room -= size
    pools = []
    for members in kinds.values():
        coded_alone = [tensor for place in members if (tensor := tensors[place]) is not None]
        pool = _pool(tuple(members), [t.dense for t in coded_alone if t.dense is not None])
        alone = sum(tensor.cost_bytes for tensor in coded_alone)
        if pool and len(pool.body) + len(pool.record) / 2 + 4 * len(members) <= _ALLOWED * alone:
            pools.append(pool)
    return pools


def _pool(members: tuple[int, ...], tensors: Sequence[Tensor]) -> Pool | None:
    if not members:
        return None
    elements = np.concatenate([tensor.elements for tensor in tensors])
    together = Tensor(elements, [(0, elements.size)], tensors[0].is_float)
    lengths = np.array([tensor.elements.size for tensor in tensors], np.int64)
    form, planes = byte_planes(together)
    payload = Payload()
    headers = [
        _plane(payload, plane, lengths, form, last=plane is planes[0]) for plane in reversed(planes)
    ]
    lanes, body = payload.finish(elements.nbytes)
    record = bytes([Method.POOL]) + varint(elements.nbytes) + varint(lanes) + bytes([form])
    return Pool(members, record + b"".join(headers), body)


def _plane(payload: Payload, symbols: Symbols, lengths: Counts, form: int, *, last: bool) -> bytes:
    """Puts a plane into the payload; returns its description."""
    places = np.repeat(np.arange(lengths.size, dtype=np.int64) * SYMBOLS, lengths)
    counts = np.bincount(places + symbols, minlength=lengths.size * SYMBOLS)
    counts = counts.reshape(-1, SYMBOLS)
    if counts.sum(axis=0).max() == symbols.size:
        return bytes([Coding.CONSTANT, int(symbols[0])])
    numbers = _clustered(counts, by_mean=form & ROTATED > 0)
    joint = np.zeros((int(numbers.max()) + 1, SYMBOLS), np.int64)
    np.add.at(joint, numbers, counts)
    made = [make_table(row, _STEP) for row in joint]
    tables = Tables.of(np.stack([table for table, _ in made]))
    if (
        tables.cost_bytes(joint) + sum(_table_bytes(row) for row in joint)
        < _WORTH_DECODING * symbols.size
    ):
        runs = Runs(lengths, numbers)
        payload.symbols(symbols, tables, runs.contexts(0, symbols.size))
        parts = (varint(lengths.size), *map(varint, lengths.tolist()), numbers.tobytes())
        if last:
            payload.carry_symbols()
        coding = Coding.BY_RUN_REST if last else Coding.BY_RUN
        return bytes([coding]) + b"".join([*parts, *(header for _, header in made)])
    if last:
        payload.rest(symbols.tobytes())
        return bytes([Coding.REST])
    payload.raw(symbols.tobytes())
    return bytes([Coding.RAW, 1])


def _clustered(counts: Counts, *, by_mean: bool) -> Symbols:
    """Returns the number of a table for each tensor, so that tensors that are alike share one.

    Tensors are put in an order, and neighbours are merged while that saves bytes.

    Args:
        counts: How often each symbol occurs in each tensor, shape (tensors, 256).
        by_mean: Whether the order is that of their mean symbols, which is the mean logarithm of
            weights where symbols are exponents. Else it is that of their entropy, which is the
            logarithm of the spread of integers.
    """
    means = counts @ np.arange(SYMBOLS) / counts.sum(axis=1)
    entropies = [_cost_bytes(row) / row.sum() for row in counts]
    order = np.argsort(means if by_mean else entropies, kind="stable").tolist()
    groups = [(counts[place], [place]) for place in order]
    costs = [_cost_bytes(count) for count, _ in groups]
    merged = [_cost_bytes(a[0] + b[0]) for a, b in pairwise(groups)]
    while len(groups) > 1:
        losses = [pair - costs[at] - costs[at + 1] for at, pair in enumerate(merged)]
        at = int(np.argmin(losses))
        if losses[at] > 0 and len(groups) <= MAX_TABLES:
            break
        left, right = groups[at : at + 2]
        groups[at : at + 2] = [(left[0] + right[0], left[1] + right[1])]
        costs[at : at + 2] = [merged[at]]
        first = max(at - 1, 0)
        near = pairwise(groups[first : at + 2])
        merged[first : at + 2] = [_cost_bytes(a[0] + b[0]) for a, b in near]
    numbers = np.zeros(len(counts), np.uint8)
    for number, (_, places) in enumerate(groups):
        numbers[places] = number
    return numbers


def _cost_bytes(counts: Counts) -> float:
    """Returns what symbols with these counts take, their table included."""
    seen = counts[counts > 0]
    bits = (seen * (np.log2(seen.sum()) - np.log2(seen))).sum()
    return float(bits) / 8 + _table_bytes(counts)


def _table_bytes(counts: Counts) -> float:
    return _TABLE_BYTES + _SYMBOL_BYTES * np.count_nonzero(counts)
