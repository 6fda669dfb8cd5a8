"""Batches between memory and a file: coalesced, several at a time, verified."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64, xxh3_64_intdigest

from prefillshare.errors import TransferIntegrityError
from prefillshare.transfer.base import Batch
from prefillshare.transfer.fed import FedTransfer
from prefillshare.transfer.file.stored import ALIGNMENT, StoredFile
from prefillshare.transfer.file.sums import Sums
from prefillshare.transfer.ranges import Pieces
from prefillshare.transfer.rows import coalesced, cut, placed

# What one system call moves at most, in bytes and in pieces of memory.
CALL_BYTES = 1 << 20
CALL_VIEWS = 512
QUEUE = 16
T = TypeVar("T")


@dataclass
class Call:
    """Neighbours in the file, as one system call: rows (local, offset, length, tag)."""

    rows: list[list[int]]
    direct: bool
    size: int

    def views(self, memory: memoryview) -> list[memoryview]:
        """Where the rows lie."""
        return [memory[near : near + length] for near, _, length, _ in self.rows]


def write(
    transfer: FedTransfer,
    stored: StoredFile,
    pieces: Pieces,
    pool: Executor,
    slice_bytes: int,
) -> None:
    """Write what the transfer is fed, and its checksums when all of it is there."""
    memory = transfer.region.memory
    written: list[Sums] = []
    for batch in transfer.batches():
        rows = cut(_by_offset(batch, pieces), slice_bytes, column=1)
        stored.forget(rows[:, 1:])
        digests = np.zeros(len(rows), np.uint64)

        def put(call: Call, digests: NDArray[np.uint64] = digests) -> int:
            views = call.views(memory)
            for row, view in zip(call.rows, views, strict=True):
                digests[row[3]] = xxh3_64_intdigest(view)
            stored.write(call.rows[0][1], views, call.direct)
            return call.size

        tagged = np.column_stack([rows, np.arange(len(rows))])
        run(transfer, pool, put, calls(tagged, memory))
        written.append(Sums(rows[:, 1:], digests))
    ranges = np.concatenate([each.ranges for each in written])
    stored.keep(Sums(ranges, np.concatenate([each.digests for each in written])))


def read(
    transfer: FedTransfer, stored: StoredFile, pieces: Pieces, pool: Executor
) -> None:
    """Read what the transfer is fed, verified."""
    memory = transfer.region.memory
    for batch in transfer.batches():
        rows, sums = _by_offset(batch, pieces), stored.sums
        parts = sums.parts(rows)
        if parts is None:
            raise TransferIntegrityError(
                f"{stored.path}: bytes of the batch were never written whole; write "
                "them first"
            )
        whole = _whole(parts, sums)

        def fill(call: Call, sums: Sums = sums) -> int:
            views = call.views(memory)
            stored.read(call.rows[0][1], views, call.direct)
            _verify(call, views, stored, sums)
            return call.size

        run(transfer, pool, fill, calls(parts[whole], memory))

        def pick(group: list[list[int]], sums: Sums = sums) -> int:
            data = stored.extent(sums, group[0][3])
            start = int(sums.ranges[group[0][3], 0])
            for near, offset, length, _ in group:
                low = offset - start
                memory[near : near + length] = data[low : low + length]
            return sum(row[2] for row in group)

        run(transfer, pool, pick, _groups(parts[~whole]))


def calls(rows: Batch, memory: memoryview) -> Iterator[Call]:
    """Rows (local, offset, length, extent), by offset, as few calls.

    Rows of one extent stay together; a call is direct where all of it is aligned.
    """
    base = int(np.frombuffer(memory, np.uint8).ctypes.data)
    aligned = ((rows[:, 0] + base) | rows[:, 1] | rows[:, 2]) % ALIGNMENT == 0
    call: Call | None = None
    for group in _groups(np.column_stack([rows, aligned])):
        direct = min(row.pop() for row in group) == 1
        size = sum(row[2] for row in group)
        if (
            call is None
            or sum(call.rows[-1][1:3]) != group[0][1]
            or call.direct != direct
            or call.size + size > CALL_BYTES
            or len(call.rows) + len(group) > CALL_VIEWS
        ):
            if call:
                yield call
            call = Call([], direct, 0)
        call.rows += group
        call.size += size
    if call:
        yield call


def run(
    transfer: FedTransfer, pool: Executor, do: Callable[[T], int], jobs: Iterable[T]
) -> None:
    """Do jobs on the pool, a few at a time, and count the bytes that each moves.

    No job is under way when it returns, or raises what stopped it.
    """
    under_way: set[Future[int]] = set()
    try:
        for job in jobs:
            transfer.check()
            under_way.add(pool.submit(do, job))
            if len(under_way) >= QUEUE:
                over, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                for each in over:
                    transfer.count(each.result())
        for each in under_way:
            transfer.count(each.result())
    finally:
        # The kernel ends what it has begun; it cannot be called back.
        wait(under_way)


def _by_offset(batch: Batch, pieces: Pieces) -> Batch:
    rows = placed(batch[np.argsort(batch[:, 1], kind="stable")], pieces)
    return coalesced(rows[np.argsort(rows[:, 1], kind="stable")])


def _whole(parts: Batch, sums: Sums) -> NDArray[np.bool_]:
    """Which parts belong to extents of which every byte is wanted, once, in order."""
    index, length = parts[:, 3], parts[:, 2]
    starts = np.r_[True, index[1:] != index[:-1]]
    group = np.cumsum(starts) - 1
    wanted = np.bincount(group, weights=length).astype(np.int64)
    ordered = np.r_[True, parts[:-1, 1] + length[:-1] == parts[1:, 1]] | starts
    in_order = np.bincount(group, weights=~ordered) == 0
    count = np.bincount(group)
    good = (wanted == sums.ranges[index[starts], 1]) & in_order & (count <= CALL_VIEWS)
    return np.asarray(good[group], np.bool_)


def _groups(rows: Batch) -> Iterator[list[list[int]]]:
    """Rows with the same fourth column, which follow each other."""
    for _, group in groupby(rows.tolist(), key=lambda row: row[3]):
        yield list(group)


def _verify(
    call: Call, views: list[memoryview], stored: StoredFile, sums: Sums
) -> None:
    pairs = zip(call.rows, views, strict=True)
    for index, group in groupby(pairs, key=lambda pair: pair[0][3]):
        digest = xxh3_64()
        for _, view in group:
            digest.update(view)
        if digest.intdigest() != sums.digests[index]:
            raise stored.corrupt(*sums.ranges[index].tolist())
