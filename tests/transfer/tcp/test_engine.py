"""What the engine does for speed and for its users, where another might not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from prefillshare.errors import TransferClosed, TransferIntegrityError
from prefillshare.transfer.base import Access, Batch, GrantEnd, Outcome
from prefillshare.transfer.tcp import frames
from prefillshare.transfer.tcp.board import Board
from prefillshare.transfer.tcp.pacing import Pacer
from prefillshare.transfer.tcp.streams import Streams
from tests.transfer.pairs import SECONDS
from tests.transfer.tcp.middleman import Unit
from tests.transfer.tcp.rig import SETTINGS, SIZE, Rig, batch, rig

BOTH = pytest.mark.parametrize("access", ["read", "write"])
COUNT = 100_000


@pytest.fixture(params=["plain", "sealed"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path, sealed=request.param == "sealed") as made:
        yield made


@BOTH
def test_a_rate_is_not_exceeded_by_all_streams_together(
    tmp_path: Path, access: Access
) -> None:
    capped = SETTINGS.model_copy(update={"rate_gbps": 0.1})
    with rig(tmp_path, settings=capped) as pair:
        stats = pair.move(access).check()
        # The first of 128 slices leaves at once.
        assert stats.gbps < 0.1 * 128 / 127


def scattered(seed: int) -> Batch:
    """100,000 rows of 40 bytes that touch no other, in another order on each side."""
    rng = np.random.default_rng(seed)
    sides = [rng.permutation(COUNT) * 64 for _ in range(2)]
    return np.column_stack([*sides, np.full(COUNT, 40)])


@BOTH
def test_100000_ranges_are_one_transfer(pair: Rig, access: Access) -> None:
    kinds: list[int] = []

    def note(unit: Unit) -> Sequence[bytes | None]:
        if unit.kind == "control" and unit.way == "to lender":
            kinds.append(unit.data[4])
        return [unit.data]

    pair.man.tamper = note
    move = pair.start(pair.prepare(access, COUNT * 64), fed=True)
    rows = scattered(1)
    move.transfer.add(rows)
    move.transfer.finish()
    stats = move.transfer.wait(SECONDS)
    assert (stats.bytes, stats.ranges) == (40 * COUNT, COUNT)
    assert move.ends.one() == GrantEnd(Outcome.DONE, b"note", 40 * COUNT)
    near, far = (np.frombuffer(m, np.uint8) for m in (move.near, move.far))
    places = np.arange(40)
    here = near[rows[:, 0, None] + places]
    assert here.any(axis=1).all() and (here == far[rows[:, 1, None] + places]).all()
    # What nobody asked for was not touched.
    received = near if access == "read" else far
    assert not received.reshape(COUNT, 64)[:, 40:].any()
    if not move.transfer.wait().sealed:
        assert kinds.count(frames.Add.kind) == -(-COUNT // frames.MAX_RANGES)
    del near, far, received


@BOTH
def test_neighbours_are_told_and_moved_as_one(pair: Rig, access: Access) -> None:
    firsts = np.arange(COUNT) * 20
    rows = np.column_stack([firsts, firsts, np.full(COUNT, 20)])
    move = pair.start(pair.prepare(access, COUNT * 20), fed=True)
    before = pair.man.connections[0].passed
    move.transfer.add(rows)
    move.transfer.finish()
    move.check()
    # A table of all of them has 1.6 MB.
    assert pair.man.connections[0].passed - before < 1000


def test_connections_stay_and_tell_what_the_kernel_knows(pair: Rig) -> None:
    for _ in range(3):
        pair.works()
    assert pair.link.warm
    assert len(pair.man.connections) == 1 + SETTINGS.streams
    streams = pair.link.streams()
    assert [each.stream for each in streams] == [1, 2, 3, 4]
    # Small writes go with their frame.
    assert sum(each.bytes_sent for each in streams) == 3 * SIZE
    assert sum(each.bytes_received for each in streams) == 3 * (SIZE + 1000)
    carried = [each for each in streams if each.bytes_sent]
    for each in carried:
        # Of loopback: below a second, hardly anything again, no faster than memory.
        assert 0 < each.rtt_seconds < 1
        assert each.retransmits < 1000
        assert 1e4 < each.delivery_bytes_per_second < 1e13
    assert carried


@BOTH
def test_deregistering_here_ends_what_moves_the_memory(
    pair: Rig, access: Access
) -> None:
    move = pair.start(pair.prepare(access), fed=True)
    move.transfer.add(batch(SIZE // 2))
    _, region = pair._regions.pop()
    pair.mover.deregister(region)
    with pytest.raises(TransferClosed, match="deregistered"):
        move.transfer.wait(0)
    before = bytes(move.near)
    assert not move.ends.told
    pair.start(move)
    move.check()
    assert access == "write" or bytes(move.near) != before


def test_answers_that_nobody_asked_for_are_kept_by_nobody() -> None:
    streams = Streams(Board(print), Pacer(None), print, print, 9)
    with pytest.raises(TransferIntegrityError, match="nobody asked about stream 7"):
        streams.hear(7, 1, b"\xff" * 1000)
    with pytest.raises(TransferIntegrityError, match="nobody asked about stream 7"):
        streams.know(7)
    streams.ask(7)
    # It is of no transfer that is under way.
    streams.hear(7, 1, b"\xff" * 1000)
    assert streams.know(7) == {}
