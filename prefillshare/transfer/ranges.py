"""Ranges of memory as arrays: checked, joined, cut, and seen as views."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prefillshare.transfer.base import Ranges

Offsets = NDArray[np.int64]
MAX_OFFSET = 1 << 48
# Of one transfer; a peer that reads the same bytes again and again is stopped there.
MAX_PIECES = 1 << 22


def as_ranges(raw: object, columns: int = 2) -> Ranges:
    """An int64 array [n, columns] with n of at least 1; `ValueError` otherwise.

    The last column is a length, above 0; no value is negative or beyond 2^48.
    """
    found = np.ascontiguousarray(raw, dtype=np.int64)
    if found.ndim != 2 or found.shape[1] != columns or not len(found):
        raise ValueError(f"ranges of shape {found.shape}; pass [n, {columns}], n > 0")
    if found.min() < 0 or found.max() > MAX_OFFSET or found[:, -1].min() < 1:
        raise ValueError("a range is negative, empty or beyond 2^48 bytes")
    return found


def check_within(ranges: Ranges, size: int, what: str) -> None:
    """Raise `ValueError` unless all ranges end within `size` bytes."""
    if (stop := int(stops_of(ranges).max())) > size:
        raise ValueError(f"a range ends at byte {stop}, {what} has {size}")


def stops_of(ranges: Ranges) -> Offsets:
    """Where each range ends."""
    # A sum over an axis of two takes numpy 25 times as long.
    stops: Offsets = ranges[:, 0] + ranges[:, -1]
    return stops


def check_disjoint(ranges: Ranges) -> None:
    """Raise `ValueError` if two ranges share a byte."""
    if len(ranges) > 1:
        ordered(ranges)


def ordered(ranges: Ranges) -> tuple[Offsets, Offsets]:
    """Starts and stops of disjoint ranges, in order; `ValueError` for a shared byte."""
    # Apart from each other, ranges stop in the order in which they start. If two share
    # a byte, fewer have stopped there than would have to, so one comparison fails.
    starts, stops = np.sort(ranges[:, 0]), np.sort(stops_of(ranges))
    over = stops[:-1] > starts[1:]
    if over.any():
        raise overlap(int(starts[1:][over][0]))
    return starts, stops


def overlap(byte: int) -> ValueError:
    """What is raised for ranges that share it."""
    return ValueError(
        f"ranges overlap at byte {byte}: what was verified would be written again"
    )


def joined(ranges: Ranges) -> Ranges:
    """The same bytes in the same order, neighbours made one."""
    if len(ranges) < 2:
        return ranges
    starts = np.r_[True, stops_of(ranges)[:-1] != ranges[1:, 0]]
    if starts.all():
        return ranges
    lengths = np.add.reduceat(ranges[:, 1], np.flatnonzero(starts))
    return np.stack([ranges[starts, 0], lengths], axis=1)


class Pieces:
    """Ranges of a buffer, in the order in which a transfer counts its bytes.

    Byte 0 is the first of the first range. Ranges may be added, from one thread at a
    time; what was there before does not change by that.
    """

    def __init__(self, memory: memoryview, ranges: Ranges | None = None) -> None:
        self.memory = memory
        self._starts, self._stops = np.empty(0, np.int64), np.empty(0, np.int64)
        # Where each piece ends, counted in bytes of the transfer.
        self._ends = np.empty(0, np.int64)
        if ranges is not None:
            self.add(ranges)

    @property
    def size(self) -> int:
        """Bytes of all pieces."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, ranges: Ranges) -> None:
        """Append pieces; the caller has checked that they are within the buffer."""
        more = joined(ranges)
        starts, stops = more[:, 0], stops_of(more)
        ends = self.size + np.cumsum(more[:, 1])
        if not len(self._ends):
            self._starts, self._stops, self._ends = starts, stops, ends
            return
        # Readers without a lock find more starts than ends at worst: of bytes that
        # nobody asks for yet.
        self._starts = np.concatenate([self._starts, starts])
        self._stops = np.concatenate([self._stops, stops])
        self._ends = np.concatenate([self._ends, ends])

    def ranges(self) -> Ranges:
        """All pieces as ranges of the buffer."""
        return np.stack([self._starts, self._stops - self._starts], axis=1)

    def resolve(self, ranges: Ranges) -> Ranges:
        """Ranges of the transfer's bytes, as ranges of the buffer, cut at pieces.

        `ValueError` for more than MAX_PIECES, before they are made.
        """
        starts, ends = self._starts, self._ends
        if len(ends) == 1 and len(ranges) <= MAX_PIECES:
            return ranges + (int(starts[0]), 0)
        begins = ends - np.diff(ends, prepend=0)
        offsets, stops = ranges[:, 0], stops_of(ranges)
        first = np.searchsorted(ends, offsets, side="right")
        count = np.searchsorted(ends, stops - 1, side="right") - first + 1
        if (total := int(count.sum())) > MAX_PIECES:
            raise ValueError(f"{total} pieces, more than {MAX_PIECES}; move fewer")
        which = np.repeat(np.arange(len(ranges)), count)
        before = np.cumsum(count) - count
        piece = np.arange(len(which)) + np.repeat(first - before, count)
        low = np.maximum(begins[piece], offsets[which])
        high = np.minimum(ends[piece], stops[which])
        return np.stack([starts[piece] + low - begins[piece], high - low], axis=1)

    def views(self, first: int, last: int) -> list[memoryview]:
        """The bytes [first, last) of the transfer, where they lie."""
        if len(self._ends) == 1:
            start = int(self._starts[0])
            return [self.memory[start + first : start + last]]
        ends = self._ends
        i = int(ends.searchsorted(first, "right"))
        j = int(ends.searchsorted(last, "left")) + 1
        low, high = self._starts[i:j].tolist(), self._stops[i:j].tolist()
        # The first piece may begin before `first`, and the last one end after `last`.
        low[0] += first - (int(ends[i - 1]) if i else 0)
        high[-1] -= int(ends[j - 1]) - last
        memory = self.memory
        return [memory[a:b] for a, b in zip(low, high, strict=True)]
