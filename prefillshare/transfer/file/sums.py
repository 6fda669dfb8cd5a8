"""Checksums of what was written to a file, kept beside it.

`FILE.sums` is replaced as a whole: header (magic, extents, bytes of the file), extents
(offset, length, xxh3 of the bytes; three 64-bit numbers each, little-endian), and the
xxh3 of all that. Bytes in no extent were never written whole, and are not read.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from prefillshare.errors import TransferIntegrityError
from prefillshare.transfer.base import Ranges
from prefillshare.transfer.ranges import joined

MAGIC = b"ps-sums1"
_HEAD = struct.Struct("<8sQQ")
_TAIL = struct.Struct("<Q")


class Sums:
    """Extents of one file, by offset: `ranges` int64 [n, 2], `digests` uint64 [n]."""

    def __init__(self, ranges: Ranges, digests: NDArray[np.uint64]) -> None:
        order = np.argsort(ranges[:, 0], kind="stable")
        self.ranges: Ranges = ranges[order]
        self.digests: NDArray[np.uint64] = digests[order]

    @classmethod
    def empty(cls) -> Sums:
        """No extents."""
        return cls(np.empty((0, 2), np.int64), np.empty(0, np.uint64))

    def __len__(self) -> int:
        return len(self.ranges)

    def joined(self, ranges: Ranges, digests: NDArray[np.uint64]) -> Sums:
        """These and others, which do not overlap them."""
        return Sums(
            np.concatenate([self.ranges, ranges]),
            np.concatenate([self.digests, digests]),
        )

    def without(self, gone: Ranges, read: Callable[[int], memoryview]) -> Sums:
        """What is left if the bytes of `gone` (by offset, disjoint) are no more.

        `read` returns the verified bytes of the extent of an index: those that are cut
        get checksums of what remains.
        """
        gone = joined(gone)
        starts, stops = gone[:, 0], gone.sum(axis=1)
        mine, ends = self.ranges[:, 0], self.ranges.sum(axis=1)
        # The first range that ends after each extent begins, and the last one's end.
        first = np.searchsorted(stops, mine, side="right")
        last = np.searchsorted(starts, ends, side="left")
        touched = first < last
        inside = touched & (last - first == 1)
        at = np.minimum(first, len(gone) - 1)
        whole = inside & (starts[at] <= mine) & (ends <= stops[at])
        left: list[tuple[int, int]] = []
        digests: list[int] = []
        for index in np.flatnonzero(touched & ~whole).tolist():
            data = read(index)
            begin, end = int(mine[index]), int(ends[index])
            for low, high in _remains(begin, end, gone[first[index] : last[index]]):
                left.append((low, high - low))
                digests.append(xxh3_64_intdigest(data[low - begin : high - begin]))
        kept = Sums(self.ranges[~touched], self.digests[~touched])
        return kept.joined(
            np.array(left, np.int64).reshape(-1, 2), np.array(digests, np.uint64)
        )

    def parts(self, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Rows cut at extents: int64 [n, 4] (local, offset, length, extent's index).

        None if a byte is in no extent.
        """
        starts, stops = self.ranges[:, 0], self.ranges.sum(axis=1)
        begins, ends = rows[:, 1], rows[:, 1] + rows[:, 2]
        first = np.searchsorted(stops, begins, side="right")
        count = np.searchsorted(starts, ends, side="left") - first
        which = np.repeat(np.arange(len(rows)), count)
        nth = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
        extent = first[which] + nth
        low = np.maximum(starts[extent], begins[which])
        high = np.minimum(stops[extent], ends[which])
        if (high - low).sum() != rows[:, 2].sum():
            return None
        local = rows[which, 0] + low - begins[which]
        return np.column_stack([local, low, high - low, extent])

    def save(self, path: Path, size: int) -> None:
        """Replace the sums at `path`, those of a file of `size` bytes."""
        table = np.column_stack([self.ranges.astype("<u8"), self.digests.astype("<u8")])
        data = _HEAD.pack(MAGIC, len(self), size) + table.tobytes()
        draft = path.with_name(path.name + ".new")
        with open(draft, "wb") as file:
            file.write(data + _TAIL.pack(xxh3_64_intdigest(data)))
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
        sync_folder(path.parent)

    @classmethod
    def load(cls, path: Path) -> tuple[Sums, int]:
        """The sums at `path`, and the size of their file.

        Raises `TransferIntegrityError` unless they are as they were saved.
        """
        data = path.read_bytes()
        body = data[: -_TAIL.size]
        wrong = TransferIntegrityError(
            f"{path} is damaged, so what its file holds cannot be verified; discard "
            "both"
        )
        if len(data) < _HEAD.size + _TAIL.size:
            raise wrong
        magic, count, size = _HEAD.unpack_from(data)
        (digest,) = _TAIL.unpack(data[-_TAIL.size :])
        table = np.frombuffer(body[_HEAD.size :], np.uint8)
        if magic != MAGIC or digest != xxh3_64_intdigest(body):
            raise wrong
        if table.nbytes != 24 * count:
            raise wrong
        rows = table.view("<u8").reshape(-1, 3)
        return cls(rows[:, :2].astype(np.int64), rows[:, 2].astype(np.uint64)), size


def _remains(begin: int, end: int, gone: Ranges) -> list[tuple[int, int]]:
    """What is left of [begin, end) without ranges that are ordered and touch it."""
    edges = [begin, *np.column_stack([gone[:, 0], gone.sum(axis=1)]).ravel(), end]
    pairs = zip(edges[::2], edges[1::2], strict=True)
    return [(int(low), int(high)) for low, high in pairs if low < high]


def sync_folder(path: Path) -> None:
    """Make names in a folder last."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
