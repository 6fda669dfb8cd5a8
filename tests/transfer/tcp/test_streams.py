"""Data connections that break, are slow, or come back: what becomes of their share."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from prefillshare.errors import TransferBroken, TransferRefused, TransferTimeout
from prefillshare.transfer.base import Access
from prefillshare.transfer.tcp.board import Board
from prefillshare.transfer.tcp.pacing import Pacer
from prefillshare.transfer.tcp.sockets import parse_address
from prefillshare.transfer.tcp.streams import Streams
from tests.transfer.pairs import SECONDS, until
from tests.transfer.tcp.middleman import Once, Passing, Unit
from tests.transfer.tcp.rig import SETTINGS, SIZE, Rig, rig

BOTH = pytest.mark.parametrize("access", ["read", "write"])
LARGE = 8 * SIZE


@pytest.fixture(params=["plain", "sealed"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path, sealed=request.param == "sealed") as made:
        yield made
        made.works()
        until(lambda: len(made.link.streams()) == SETTINGS.streams)


def carries(unit: Unit) -> bool:
    """Whether it is a slice."""
    return unit.kind == "data" and unit.index > 0


@contextmanager
def stalled(pair: Rig, several: list[Passing]) -> Iterator[None]:
    """What would pass connections waits until the block is over."""
    over, numbers = threading.Event(), {each.number for each in several}

    def hold(unit: Unit) -> Sequence[bytes | None]:
        if carries(unit) and unit.connection in numbers:
            assert over.wait(SECONDS)
        return [unit.data]

    pair.man.tamper = hold
    try:
        yield
    finally:
        over.set()


@BOTH
def test_slices_of_one_reset_stream_of_four_go_out_on_the_others(
    pair: Rig, access: Access
) -> None:
    reset = Once(lambda u: carries(u) and u.index == 3, lambda _: [None])
    pair.man.tamper = reset
    pair.move(access).check()
    assert reset.done.is_set()
    until(lambda: len(pair.man.data()) == SETTINGS.streams + 1)


@BOTH
def test_slices_of_streams_that_all_break_go_out_on_new_ones(
    pair: Rig, access: Access
) -> None:
    def reset(_: Unit) -> Sequence[bytes | None]:
        for passing in pair.man.data():
            passing.reset()
        return [None]

    pair.man.tamper = Once(lambda u: carries(u) and u.index == 3, reset)
    pair.move(access).check()
    until(lambda: len(pair.man.data()) == 2 * SETTINGS.streams)


@BOTH
def test_a_failed_path_is_probed_and_returns(pair: Rig, access: Access) -> None:
    pair.man.refusing = True
    pair.man.data()[0].reset()
    until(lambda: len(pair.link.streams()) == SETTINGS.streams - 1)
    pair.move(access).check()
    tried = len(pair.man.data())
    until(lambda: len(pair.man.data()) > tried + 1)
    assert len(pair.link.streams()) == SETTINGS.streams - 1
    pair.man.refusing = False
    until(lambda: len(pair.link.streams()) == SETTINGS.streams)
    *others, last = pair.man.data()
    with stalled(pair, others):
        move = pair.move(access, LARGE)
        until(lambda: last.passed > LARGE // 4)
    move.check()


@BOTH
def test_a_slow_path_loses_its_share(pair: Rig, access: Access) -> None:
    slow, *fast = pair.man.data()
    with stalled(pair, [slow]):
        move = pair.move(access, LARGE)
        # A fixed share would be a quarter; what the path itself holds is left for it.
        until(lambda: sum(each.passed for each in fast) > LARGE * 7 // 8)
        assert not move.transfer.done
    move.check()
    assert 0 < slow.passed < LARGE // 8


@BOTH
def test_a_link_that_stalls_is_a_time_out(pair: Rig, access: Access) -> None:
    over = threading.Event()

    def hold(unit: Unit) -> Sequence[bytes | None]:
        if carries(unit):
            assert over.wait(SECONDS)
        return [unit.data]

    pair.man.tamper = hold
    move = pair.start(pair.prepare(access, LARGE), timeout=0.1)
    with pytest.raises(TransferTimeout, match=rf"of {LARGE} bytes moved within 0\.1 s"):
        move.transfer.wait(SECONDS)
    assert not move.ends.told
    over.set()
    pair.start(move).check()


@BOTH
def test_a_slow_link_is_only_slow(tmp_path: Path, access: Access) -> None:
    with rig(tmp_path) as pair, emulated(pair.lender.address) as address:
        pair.link = pair.mover.connect(address)
        assert pair.move(access).check().gbps < 0.05


def test_a_stream_that_was_there_before_is_not_welcome(tmp_path: Path) -> None:
    with rig(tmp_path) as pair:
        session = pair.link._session
        assert session is not None
        again = SETTINGS.streams
        with pytest.raises(TransferBroken, match=f"takes no stream {again}"):
            pair.link._dialler.dial_stream(session.agreed, again, 5.0)
        assert len(pair.link.streams()) == SETTINGS.streams


def test_a_replayed_opening_of_a_stream_is_turned_away(pair: Rig) -> None:
    openings: list[bytes] = []

    def keep(unit: Unit) -> Sequence[bytes | None]:
        if unit.kind == "data" and unit.way == "to lender" and not unit.index:
            openings.append(unit.data)
        return [unit.data]

    pair.man.tamper = keep
    # The link has the openings of its own; this one is of another session.
    other = pair.mover.connect(pair.man.address)
    where = parse_address(pair.lender.address)
    for session_is_over in (False, True):
        for opening in openings:
            with socket.create_connection(where, SECONDS) as sock:
                sock.sendall(opening)
                assert sock.recv(1) == b""
        if not session_is_over:
            assert len(other.streams()) == SETTINGS.streams
            other.close()
    assert len(openings) == SETTINGS.streams


def test_a_stream_that_the_peer_lost_before_it_is_attached_is_refused_alone() -> None:
    lost: list[int] = []
    board = Board(lambda end: None)
    streams = Streams(
        board,
        Pacer(None),
        lambda stream, error: lost.append(stream.number),
        lambda end, error: None,
        9,
    )
    # The peer's `Lost` overtakes what this side does with the peer's welcome.
    streams.retire(1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        ends = [socket.create_connection(server.getsockname()) for _ in range(2)]
        with pytest.raises(TransferRefused, match="stream 1 comes after 1"):
            streams.attach(1, ends[0], b"")
        streams.attach(2, ends[1], b"")
        assert [each.number for each in streams.carrying()] == [2]
        streams.shut()
        streams.join()
        ends[0].close()
    assert lost == [2]


@contextmanager
def emulated(target: str) -> Iterator[str]:
    """The address of a link of 40 Mbit/s and 5 ms to a target."""
    host, port = parse_address(target)
    module = [sys.executable, "-m", "prefillshare.transfer.linkemu"]
    settings = ["--set", "rate=4e7", "--set", "delay=0.005"]
    command = [*module, f"{host}:{port}", *settings]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["url"]
        finally:
            process.terminate()
