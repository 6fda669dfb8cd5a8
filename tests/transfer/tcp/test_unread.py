"""Peers that do not read what they are sent: nobody else waits for them."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import numpy as np
import pytest

from prefillshare.errors import TransferTimeout
from prefillshare.transfer.base import Grant, GrantEnd, Outcome
from prefillshare.transfer.secure.channel import Channel, PlainChannel
from prefillshare.transfer.tcp import dial, frames, session
from prefillshare.transfer.tcp.destination import Destination
from prefillshare.transfer.tcp.engine import TcpEngine
from prefillshare.transfer.tcp.frames import read_exactly
from prefillshare.transfer.tcp.sockets import format_address
from prefillshare.transfer.timer import Timer
from tests.transfer.pairs import SECONDS, Clock, Ends, noise, nothing_left_behind, until
from tests.transfer.tcp.rig import SETTINGS

SIZE = 1 << 26
WHOLE = np.array([[0, SIZE]])
# Longer than a test: not the silence of the peer ends anything.
PATIENT = SETTINGS.model_copy(update={"dead_seconds": 600.0})


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    with nothing_left_behind():
        yield


@contextmanager
def engine(clock: Callable[[], float] = time.monotonic) -> Iterator[TcpEngine]:
    """Ended after the block."""
    made = TcpEngine(settings=PATIENT, clock=clock)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def reader_of_nothing(
    lender: TcpEngine,
) -> Iterator[tuple[Channel, list[socket.socket]]]:
    """A mover with all of its connections, from which it reads nothing."""
    timer = Timer()
    timer.start()
    to = Destination(lender.address, None, secure=False)
    dialler = dial.Dialler(bytes(16), to, PATIENT, None, timer)
    channel, agreed = dialler.dial(SECONDS)
    streams = [dialler.dial_stream(agreed, n, SECONDS) for n in range(1, 5)]
    try:
        yield channel, streams
    finally:
        channel.close()
        for sock in streams:
            sock.close()
        timer.close()


def opening(grant: Grant) -> bytes:
    """The frames of a read of a whole grant."""
    secrets = bytes.fromhex(grant.grant_id), bytes.fromhex(grant.capability)
    opened = frames.Open(1, False, 1 << 16, *secrets, bytes(32), b"")
    added = frames.Add(1, frames.packed(np.array([[0, grant.size]])))
    several = [opened, added, frames.Finish(1, grant.size)]
    return b"".join(each.encode(n) for n, each in enumerate(several, 1))


def test_a_mover_that_reads_no_data_holds_memory_until_the_lease_is_over() -> None:
    clock = Clock()
    with engine(clock) as lender, reader_of_nothing(lender) as (channel, _):
        memory, ends = memoryview(bytearray(SIZE)), Ends()
        region = lender.register(memory)
        channel.send(opening(lender.grant(region, WHOLE, "read", ends)))
        (session,) = lender._listener._sessions.values()
        until(lambda: bool((end := session.board.find(1)) and end.moved))
        with engine() as another:
            link = another.connect(lender.address)
            kept = lender.grant(region, WHOLE, "read", Ends())
            into = another.register(memoryview(bytearray(SIZE)))
            batch = np.array([[0, 0, SIZE]])
            assert link.read(kept, into, batch, timeout=SECONDS).wait().bytes == SIZE
        assert not ends.told
        clock.now += 1e6
        lender.table.recheck()
        assert ends.one() == GrantEnd(Outcome.EXPIRED)
        # The streams that were at the memory are broken off, the session is not.
        assert session.alive and not session.streams()


def test_frames_for_a_mover_that_reads_none_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session, "MAX_WAITING_BYTES", 1 << 16)
    with engine() as lender, reader_of_nothing(lender) as (channel, _):
        # Each is answered with a refusal.
        unknown = bytes(16), bytes(32), bytes(32), b""
        opens = (
            frames.Open(number, False, 1 << 16, *unknown).encode(number)
            for number in itertools.count(1)
        )
        with suppress(OSError):
            while lender._listener._sessions:
                channel.send(b"".join(itertools.islice(opens, 1000)))
        until(lambda: not lender._listener._sessions)


@contextmanager
def silent_lender() -> Iterator[str]:
    """The address of one that greets, takes streams, and then reads nothing."""
    server = socket.create_server(("127.0.0.1", 0))
    kept: list[socket.socket] = []

    def greet() -> None:
        control, _ = server.accept()
        kept.append(control)
        dial.read_hello(channel := PlainChannel(control))
        channel.send(dial.hello(b"f" * 16, False, b"s" * 16, b"k" * 32).encode())
        for _ in range(PATIENT.streams):
            sock, _ = server.accept()
            kept.append(sock)
            read_exactly(sock.recv, dial.STREAM.size)
            sock.sendall(dial.WELCOME)

    thread = threading.Thread(target=greet)
    thread.start()
    try:
        yield format_address(*server.getsockname())
    finally:
        thread.join()
        for sock in (server, *kept):
            sock.close()


def test_a_lender_that_reads_no_frames_is_waited_for_no_longer_than_asked() -> None:
    with silent_lender() as address, engine() as mover, engine() as lender:
        grant = Grant(address, "66" * 16, "0" * 32, "0" * 64, "write", SIZE)
        region = mover.register(memoryview(bytearray(noise(SIZE).tobytes())))
        link, other = mover.connect(address), mover.connect(lender.address)
        transfer = link.write(grant, region, timeout=1.0)
        scattered = np.arange(0, 1 << 24, 16, dtype=np.int64)
        rows = np.column_stack([scattered, scattered, np.ones_like(scattered)])
        # Far more of frames than sockets hold.
        with pytest.raises(TransferTimeout, match=r"within 1\.0 s"):
            for first in range(16):
                transfer.add(rows + np.array([first, first, 0]))
        with pytest.raises(TransferTimeout):
            transfer.wait(SECONDS)
        batch = np.array([[0, 0, SIZE]])
        with pytest.raises(TransferTimeout):
            link.write(grant, region, batch, timeout=0.1).wait(SECONDS)
        link.close()
        memory, ends = memoryview(bytearray(SIZE)), Ends()
        kept = lender.grant(lender.register(memory), WHOLE, "write", ends)
        other.write(kept, region, batch, timeout=SECONDS).wait()
        assert ends.one() == GrantEnd(Outcome.DONE, b"", SIZE)
