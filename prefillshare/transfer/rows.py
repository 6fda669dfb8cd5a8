"""Batches made into copies between two memories, and what has been written so far.

A *row* is (local offset, offset in the lender's memory, length): contiguous on both
sides.
"""

from __future__ import annotations

import numpy as np

from prefillshare.transfer.base import Batch, Ranges
from prefillshare.transfer.ranges import Offsets, Pieces, ordered, overlap


def coalesced(batch: Batch) -> Batch:
    """The same bytes in the same order; rows that touch on both sides are joined."""
    stops = batch[:-1, :2] + batch[:-1, 2:]
    starts = np.r_[True, (stops != batch[1:, :2]).any(axis=1)]
    if starts.all():
        return batch
    lengths = np.add.reduceat(batch[:, 2], np.flatnonzero(starts))
    return np.column_stack([batch[starts, :2], lengths])


def placed(batch: Batch, pieces: Pieces) -> Batch:
    """Rows for a batch whose remote offsets count within `pieces`.

    Raises `ValueError` for an offset beyond them.
    """
    rows = coalesced(batch)
    if (stop := int(rows[:, 1:].sum(axis=1).max())) > pieces.size:
        raise ValueError(f"a range ends at byte {stop}, the grant has {pieces.size}")
    found = pieces.resolve(rows[:, 1:])
    # Both lists hold the same bytes in the same order, cut differently.
    begins = np.cumsum(found[:, 1]) - found[:, 1]
    row_ends = np.cumsum(rows[:, 2])
    which = np.searchsorted(row_ends, begins, side="right")
    local = rows[which, 0] + begins - (row_ends - rows[:, 2])[which]
    return np.column_stack([local, found])


def cut(rows: Batch, step: int, column: int | None = None) -> Batch:
    """The same rows in pieces of at most `step` bytes.

    With `column`, no piece crosses a multiple of `step` in that column's offsets.
    """
    skew = rows[:, column] % step if column is not None else np.zeros(len(rows), int)
    count = -(-(skew + rows[:, 2]) // step)
    which = np.repeat(np.arange(len(rows)), count)
    nth = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
    low = np.maximum(nth * step - skew[which], 0)
    high = np.minimum((nth + 1) * step - skew[which], rows[which, 2])
    return np.column_stack([rows[which, :2] + low[:, None], high - low])


def rest(views: list[memoryview], done: int) -> list[memoryview]:
    """What is left of views after the first bytes."""
    for index, view in enumerate(views):
        if done < view.nbytes:
            return [view[done:], *views[index + 1 :]]
        done -= view.nbytes
    return []


class Covered:
    """Ranges that were added once, and must not be again."""

    def __init__(self) -> None:
        self._starts = np.empty(0, np.int64)
        self._stops = np.empty(0, np.int64)

    def add(self, ranges: Ranges) -> None:
        """Add ranges; `ValueError`, and none is added, if a byte was there before."""
        starts, stops = _without_seams(*ordered(ranges))
        where = np.searchsorted(self._stops, starts, side="right")
        later = np.r_[self._starts, np.iinfo(np.int64).max][where]
        if (over := later < stops).any():
            raise overlap(int(np.maximum(later, starts)[over][0]))
        starts = np.insert(self._starts, where, starts)
        stops = np.insert(self._stops, where, stops)
        self._starts, self._stops = _without_seams(starts, stops)


def _without_seams(starts: Offsets, stops: Offsets) -> tuple[Offsets, Offsets]:
    """The same bytes in ranges that do not touch."""
    apart = stops[:-1] != starts[1:]
    if apart.all():
        return starts, stops
    return starts[np.r_[True, apart]], stops[np.r_[apart, True]]
