"""The scheduler: every byte arrives once, whatever streams are lost on the way."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefillshare.errors import TransferBroken, TransferError, TransferIntegrityError
from prefillshare.transfer.secure.sealing import Checksum
from prefillshare.transfer.tcp.board import Board
from prefillshare.transfer.tcp.ends import End, Receiving, Sending, Whole
from prefillshare.transfer.tcp.slices import Ledger, SliceHead

STEP = 4


def always() -> bool:
    return True


class Ends:
    """Both ends of one transfer of `size` bytes, in one process."""

    def __init__(self, size: int) -> None:
        self.source, self.target = bytes(range(1, size + 1)), bytearray(size)
        self.over: dict[str, list[Exception | None]] = {"out": [], "in": []}
        self.stalled: list[End] = []
        self.here, self.there = Board(self.stalled.append), Board(self.stalled.append)
        memory = memoryview(bytearray(self.source))
        guard = Checksum()
        self.out = Sending(1, memory, STEP, guard, self.over["out"].append)
        self.into = Receiving(
            1, memoryview(self.target), STEP, guard, self.over["in"].append
        )
        self.here.open(self.out)
        self.there.open(self.into)

    def add(self, first: int, last: int) -> None:
        ranges = np.array([[first, last - first]])
        self.here.add(self.out, ranges, [last - first])
        self.there.add(self.into, ranges, [last - first])

    def finish(self) -> None:
        self.here.finish(self.out)
        self.there.finish(self.into)
        self.there.end_if_complete(self.into)

    def take(self, stream: int) -> SliceHead | None:
        if not self.out.ready:
            return None
        job = self.here.take(stream, always)
        assert job is not None
        return job[1]

    def deliver(self, head: SliceHead, stream: int) -> None:
        claim = self.there.claim(head, stream, always)
        if claim is None:
            # It went again by another stream after all had arrived.
            assert self.over["in"] == [None]
            return
        for view, part in zip(claim[1], self.out.views(head), strict=True):
            view[:] = part
        self.there.settle(self.into, head, stream)

    def lose(self, stream: int) -> None:
        arrived = {
            n: Ledger.from_bytes(bits) for n, bits in self.there.arrived().items()
        }
        self.here.lost(stream, arrived)


class Wire:
    """Streams between both ends that deliver in order, or are lost with what flies."""

    def __init__(self, ends: Ends, cuts: list[int]) -> None:
        self.ends, self.cuts = ends, cuts
        self.first = 0
        self.flying: dict[int, list[SliceHead]] = {0: [], 1: [], 2: []}

    def act(self, action: str, place: int) -> None:
        stream = sorted(self.flying)[place]
        match action:
            case "add" if self.cuts:
                self.ends.add(self.first, self.cuts[0])
                self.first = self.cuts.pop(0)
                if not self.cuts:
                    self.ends.finish()
            case "take" if (head := self.ends.take(stream)) is not None:
                self.flying[stream].append(head)
            case "deliver" if self.flying[stream]:
                head = self.flying[stream].pop(0)
                self.ends.deliver(head, stream)
                self.ends.here.sent(self.ends.out, head, stream)
            case "lose":
                if self.flying.pop(stream):
                    self.ends.here.leave(self.ends.out, stream)
                self.ends.lose(stream)
                self.flying[max(self.flying) + 1] = []


ACTIONS = st.tuples(
    st.sampled_from(["add", "take", "deliver", "lose"]), st.integers(0, 2)
)


@given(st.integers(1, 60), st.sets(st.integers(1, 59)), st.lists(ACTIONS, max_size=80))
def test_all_bytes_arrive_once_whatever_is_lost(
    size: int, cuts: set[int], actions: list[tuple[str, int]]
) -> None:
    ends = Ends(size)
    wire = Wire(ends, [*sorted(cut for cut in cuts if cut < size), size])
    for action, place in actions:
        wire.act(action, place)
    for _ in range(2 * size + len(wire.cuts)):
        for action in ("add", "take", "deliver"):
            for place in range(3):
                wire.act(action, place)
    assert ends.target == ends.source
    assert ends.over["in"] == [None]
    assert ends.there.find(1) is None
    ends.here.end(ends.out, None)
    assert ends.over["out"] == [None]
    assert ends.out.moved == size


def test_all_that_was_added_leaves() -> None:
    ends = Ends(9)
    ends.add(0, 3)
    assert ends.take(1) == SliceHead(1, 0, 3, 1)
    assert ends.take(1) is None
    ends.add(3, 9)
    assert ends.take(1) == SliceHead(1, 1, 4, 2)
    assert ends.take(1) == SliceHead(1, 2, 2, 3)
    assert ends.take(1) is None


@pytest.mark.parametrize(
    ("head", "match"),
    [
        (SliceHead(1, 0, 4, 1), "twice"),
        (SliceHead(1, 1, 3, 1), "no slice"),
        (SliceHead(1, 7, 4, 1), "no slice"),
    ],
)
def test_slices_that_cannot_be_are_refused(head: SliceHead, match: str) -> None:
    ends = Ends(6)
    ends.add(0, 6)
    ends.finish()
    ends.deliver(SliceHead(1, 0, 4, 1), 1)
    with pytest.raises(TransferIntegrityError, match=match):
        ends.there.claim(head, 1, always)
    assert not ends.over["in"]


def test_a_slice_is_admitted_once_while_it_arrives_twice() -> None:
    ends = Ends(6)
    ends.add(0, 6)
    head = SliceHead(1, 0, 4, 1)
    assert ends.there.claim(head, 1, always)
    with pytest.raises(TransferIntegrityError, match="twice"):
        ends.there.claim(head, 2, always)


def test_a_slice_waits_for_the_control_connection() -> None:
    ends = Ends(6)
    found: list[object] = []
    thread = threading.Thread(
        target=lambda: found.append(ends.there.claim(SliceHead(1, 1, 2, 1), 1, always))
    )
    thread.start()
    ends.add(0, 6)
    ends.finish()
    thread.join(5)
    assert not thread.is_alive()
    assert found and found[0] is not None


def test_late_slices_of_a_transfer_that_is_over_are_nobodys() -> None:
    ends = Ends(4)
    ends.there.end(ends.into, TransferError("over"))
    assert ends.there.claim(SliceHead(1, 0, 4, 1), 1, always) is None
    ends.there.skip(5)
    assert ends.there.claim(SliceHead(5, 0, 4, 1), 1, always) is None


def test_the_end_is_told_when_no_stream_is_at_the_memory_any_more() -> None:
    ends = Ends(8)
    ends.add(0, 8)
    first, second = ends.take(1), ends.take(2)
    assert first and second
    failure = TransferBroken("gone")
    assert ends.here.end(ends.out, failure)
    assert not ends.here.end(ends.out, None)
    assert ends.stalled == [ends.out]
    ends.here.sent(ends.out, first, 1)
    assert not ends.over["out"]
    ends.here.leave(ends.out, 2)
    assert ends.over["out"] == [failure]


def test_transfers_take_turns() -> None:
    ends = Ends(40)
    other = Sending(2, memoryview(bytearray(40)), STEP, Checksum(), lambda _: None)
    ends.here.open(other)
    for end in (ends.out, other):
        ends.here.add(end, np.array([[0, 40]]), [40])
    taken = [job[1].transfer for _ in range(6) if (job := ends.here.take(1, always))]
    assert taken == [1, 2, 1, 2, 1, 2]


def test_a_closed_board_ends_all_and_lets_the_streams_go() -> None:
    ends = Ends(8)
    failure = TransferBroken("gone")
    ends.here.close(failure)
    assert ends.over["out"] == [failure]
    assert ends.here.take(1, always) is None
    with pytest.raises(TransferBroken):
        ends.here.open(Sending(9, memoryview(bytearray(1)), STEP, Checksum(), print))
    with pytest.raises(TransferBroken):
        ends.here.add(ends.out, np.array([[0, 4]]), [4])


def test_numbers_go_up() -> None:
    ends = Ends(8)
    with pytest.raises(TransferIntegrityError, match="comes after 1"):
        ends.here.open(Sending(1, memoryview(bytearray(1)), STEP, Checksum(), print))


@pytest.mark.parametrize(("kind", "wakes"), [(Whole, 0), (Sending, 2)])
def test_streams_are_woken_for_what_they_can_send_and_for_nothing_else(
    kind: type[Sending], wakes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    board, woken = Board(print), []
    monkeypatch.setattr(board._to_send, "notify_all", lambda: woken.append(True))
    end = kind(1, memoryview(bytearray(STEP)), STEP, Checksum(), lambda _: None)
    board.open(end)
    assert not woken
    board.add(end, np.array([[0, STEP]]), [STEP])
    board.finish(end)
    board.end(end, None)
    assert len(woken) == wakes
