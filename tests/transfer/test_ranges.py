"""Range arithmetic against a model that goes byte by byte."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefillshare.transfer.base import Ranges
from prefillshare.transfer.ranges import (
    MAX_OFFSET,
    MAX_PIECES,
    Pieces,
    as_ranges,
    check_disjoint,
    check_within,
    joined,
)
from prefillshare.transfer.rows import Covered, coalesced, cut, placed

SIZE = 64
a_range = st.tuples(st.integers(0, SIZE - 1), st.integers(1, 12)).map(
    lambda pair: (pair[0], min(pair[1], SIZE - pair[0]))
)
some_ranges = st.lists(a_range, min_size=1, max_size=12).map(
    lambda several: np.array(several, np.int64)
)


def offsets(ranges: Ranges) -> list[int]:
    """Every byte that ranges name, in order."""
    return [offset + i for offset, length in ranges.tolist() for i in range(length)]


def within(draw: st.DataObject, size: int) -> Ranges:
    """Ranges that end within `size` bytes."""
    found = draw.draw(some_ranges).copy()
    found[:, 0] %= size
    found[:, 1] = np.minimum(found[:, 1], size - found[:, 0])
    return found


def batch_within(draw: st.DataObject, local: int, remote: int) -> Ranges:
    """Rows (local, remote, length) within two sizes."""
    far = within(draw, remote)
    far[:, 1] = np.minimum(far[:, 1], local)
    starts = [draw.draw(st.integers(0, local - n)) for n in far[:, 1].tolist()]
    return np.column_stack([np.array(starts), far])


def pairs_of(rows: Ranges) -> list[tuple[int, int]]:
    """Every (local, remote) byte that rows pair, in order."""
    return [(a + i, b + i) for a, b, n in rows.tolist() for i in range(n)]


@given(some_ranges)
def test_joined_names_the_same_bytes_with_no_neighbours(ranges: Ranges) -> None:
    found = joined(ranges)
    assert offsets(found) == offsets(ranges)
    assert (found[:-1].sum(axis=1) != found[1:, 0]).all()


@given(some_ranges, st.data())
def test_resolve_finds_the_bytes_of_the_pieces(
    ranges: Ranges, data: st.DataObject
) -> None:
    pieces = Pieces(memoryview(bytearray(SIZE)), ranges)
    lent = offsets(ranges)
    assert pieces.size == len(lent)
    assert offsets(pieces.ranges()) == lent
    asked = within(data, pieces.size)
    assert offsets(pieces.resolve(asked)) == [lent[i] for i in offsets(asked)]


@given(st.lists(some_ranges, min_size=1, max_size=4), st.data())
def test_views_show_the_bytes_however_pieces_were_added(
    several: list[Ranges], data: st.DataObject
) -> None:
    memory = bytearray(range(SIZE))
    pieces = Pieces(memoryview(memory))
    for ranges in several:
        pieces.add(ranges)
    lent = offsets(np.concatenate(several))
    first = data.draw(st.integers(0, pieces.size - 1))
    last = data.draw(st.integers(first + 1, pieces.size))
    views = pieces.views(first, last)
    assert list(b"".join(views)) == lent[first:last]
    assert all(view.nbytes for view in views)
    # They are the memory, not a copy of it.
    memory[lent[first]] ^= 0xFF
    assert views[0][0] == memory[lent[first]]


def overlap(ranges: Ranges) -> bool:
    return len(set(offsets(ranges))) < len(offsets(ranges))


@given(some_ranges)
def test_check_disjoint_is_brute_force(ranges: Ranges) -> None:
    expected = pytest.raises(ValueError, match="overlap")
    with expected if overlap(ranges) else contextlib.nullcontext():
        check_disjoint(ranges)


@given(st.lists(some_ranges, min_size=1, max_size=6))
def test_covered_remembers_every_byte(several: list[Ranges]) -> None:
    covered, seen = Covered(), set[int]()
    for ranges in several:
        named = set(offsets(ranges))
        if overlap(ranges) or named & seen:
            with pytest.raises(ValueError, match="overlap") as refused:
                covered.add(ranges)
            if not overlap(ranges):
                assert f"byte {min(named & seen)}:" in str(refused.value)
        else:
            covered.add(ranges)
            seen |= named


@settings(max_examples=200)
@given(some_ranges, st.data())
def test_placed_rows_are_the_batch_in_the_lenders_memory(
    ranges: Ranges, data: st.DataObject
) -> None:
    pieces = Pieces(memoryview(bytearray(SIZE)), ranges)
    lent = offsets(ranges)
    batch = batch_within(data, SIZE, pieces.size)
    expected = [(near, lent[far]) for near, far in pairs_of(batch)]
    rows = placed(batch, pieces)
    assert pairs_of(rows) == expected
    step = data.draw(st.integers(1, 20))
    parts = cut(rows, step)
    assert pairs_of(parts) == expected and parts[:, 2].max() <= step
    aligned = cut(rows, step, column=1)
    assert pairs_of(aligned) == expected
    assert (aligned[:, 1] // step == (aligned[:, 1:].sum(axis=1) - 1) // step).all()


@given(st.data())
def test_coalesced_rows_have_no_neighbours(data: st.DataObject) -> None:
    batch = batch_within(data, SIZE, SIZE)
    found = coalesced(batch)
    assert pairs_of(found) == pairs_of(batch)
    stops = found[:-1, :2] + found[:-1, 2:]
    assert (stops != found[1:, :2]).any(axis=1).all()


def test_placed_refuses_what_is_beyond_the_pieces() -> None:
    pieces = Pieces(memoryview(bytearray(9)), np.array([[0, 4], [5, 4]]))
    placed(np.array([[0, 4, 4]]), pieces)
    with pytest.raises(ValueError, match="byte 9, the grant has 8"):
        placed(np.array([[0, 4, 5]]), pieces)


@pytest.mark.parametrize(
    "raw",
    [[], [[0, 0]], [[-1, 2]], [[0, -1]], [[MAX_OFFSET + 1, 1]], [0, 1], [[0, 1, 2]]],
)
def test_what_are_no_ranges_is_refused(raw: object) -> None:
    with pytest.raises(ValueError, match="range"):
        as_ranges(raw)


def test_ranges_end_within_a_size() -> None:
    check_within(as_ranges([[3, 2], [0, 5]]), 5, "it")
    with pytest.raises(ValueError, match="byte 6, it has 5"):
        check_within(as_ranges([[0, 1], [3, 3]]), 5, "it")


def test_the_same_bytes_in_ever_more_pieces_are_refused_before_they_are_made() -> None:
    count = 3000
    every_second = np.column_stack([2 * np.arange(count), np.ones(count, np.int64)])
    pieces = Pieces(memoryview(bytearray(2 * count)), every_second)
    again = np.tile([0, count], (count, 1))
    with pytest.raises(ValueError, match=f"9000000 pieces, more than {MAX_PIECES}"):
        pieces.resolve(again)
