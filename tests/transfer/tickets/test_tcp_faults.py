"""Peers that misbehave over real sockets."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from xxhash import xxh3_64_intdigest

from prefillshare.errors import (
    TransferBroken,
    TransferError,
    TransferIntegrityError,
    TransferRefused,
    TransferTimeout,
)
from prefillshare.transfer.tickets import wire
from prefillshare.transfer.tickets.base import Ticket
from prefillshare.transfer.tickets.tcp import TcpExporter, TcpImporter

WAIT = 5.0
BLOCKS, SIZE = 2, 8
GRANT = wire.encode(wire.Grant(BLOCKS, SIZE, SIZE))
DONE = wire.encode(wire.Done())


def part(block: int, payload: bytes = b"12345678", flip: int = 0) -> bytes:
    checksum = xxh3_64_intdigest(payload)
    head = wire.encode(wire.Slice(block, 0, len(payload), checksum))
    return head + bytes([payload[0] ^ flip]) + payload[1:]


@contextlib.contextmanager
def server(reply: bytes, stay: bool) -> Iterator[Ticket]:
    """Answer one HELLO with `reply`, then end, or stay until the fetcher ends."""

    def run() -> None:
        sock, _ = listener.accept()
        with sock, contextlib.suppress(OSError):
            sock.recv(64, socket.MSG_WAITALL)
            sock.sendall(reply)
            while stay and sock.recv(4096):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=run)
        thread.start()
        port = listener.getsockname()[1]
        yield Ticket("0" * 32, "0" * 64, "127.0.0.1", port, BLOCKS, SIZE, SIZE)
        thread.join(WAIT)
        assert not thread.is_alive()


def fetch(ticket: Ticket, timeout: float = WAIT) -> list[bytearray]:
    size = ticket.bytes_per_block
    target = [bytearray(size) for _ in range(ticket.blocks)]
    TcpImporter().fetch(ticket, [memoryview(b) for b in target], timeout)
    return target


@pytest.mark.parametrize(
    ("reply", "error", "match"),
    [
        (b"", TransferBroken, "0 of 16 bytes"),
        (GRANT + part(0) + part(1)[:-1], TransferBroken, "8 of 16 bytes"),
        (GRANT + part(0) + part(1), TransferBroken, "16 of 16 bytes"),
        (GRANT + part(0, flip=4), TransferIntegrityError, "checksum"),
        (GRANT + part(0) + part(0), TransferIntegrityError, "twice"),
        (GRANT + part(2), TransferIntegrityError, "no slice"),
        (GRANT + part(0) + DONE, TransferIntegrityError, "1 of 2 slices"),
        (GRANT + part(0) + GRANT, TransferIntegrityError, "expected SLICE"),
        (part(0), TransferIntegrityError, "expected Grant"),
        (
            wire.encode(wire.Grant(BLOCKS + 1, SIZE, SIZE)),
            TransferIntegrityError,
            "expected Grant",
        ),
        (
            wire.encode(wire.Grant(2**32 - 1, SIZE, SIZE)),
            TransferIntegrityError,
            "4294967295",
        ),
        (b"HTTP/1.1 400 Bad Request\r\n".ljust(64), TransferIntegrityError, "HTTP"),
    ],
)
def test_fetch_names_what_the_exporter_did(
    reply: bytes, error: type[TransferError], match: str
) -> None:
    with server(reply, stay=False) as ticket, pytest.raises(error, match=match) as got:
        fetch(ticket)
    assert f"127.0.0.1:{ticket.port}" in str(got.value)


def test_any_order_of_slices_is_accepted() -> None:
    reply = GRANT + part(1, b"abcdefgh") + part(0) + DONE
    with server(reply, stay=False) as ticket:
        assert fetch(ticket) == [b"12345678", b"abcdefgh"]


@pytest.mark.parametrize("reply", [b"", GRANT, GRANT + part(0) + part(1)[:-1]])
def test_silent_exporter_runs_into_the_deadline(reply: bytes) -> None:
    with server(reply, stay=True) as ticket:
        begin = time.monotonic()
        with pytest.raises(TransferTimeout):
            fetch(ticket, timeout=0.2)
        assert 0.2 <= time.monotonic() - begin < 2


class Rig:
    """A real exporter of one large block, and raw connections to it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.releases = 0
        self.released = threading.Event()
        self.exporter = TcpExporter(max_connections=2, clock=lambda: self.now)
        self.block = bytearray(1 << 24)
        self.ticket = self.exporter.export([memoryview(self.block)], self._release)

    def _release(self) -> None:
        self.releases += 1
        self.released.set()

    def connect(self, data: bytes) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.ticket.port), WAIT)
        sock.sendall(data)
        return sock

    def stall(self) -> socket.socket:
        """Begin a fetch that reads nothing after GRANT."""
        key, secret = self.ticket.transfer_id, self.ticket.capability
        hello = wire.Hello(bytes.fromhex(key), bytes.fromhex(secret))
        sock = self.connect(wire.encode(hello))
        assert isinstance(wire.read_frame(sock.recv_into), wire.Grant)
        return sock


@pytest.fixture
def rig() -> Iterator[Rig]:
    before = set(threading.enumerate())
    made = Rig()
    yield made
    made.exporter.close()
    assert made.releases == 1
    assert set(threading.enumerate()) == before


def expire(rig: Rig) -> None:
    rig.now = 61.0
    rig.exporter.recheck_leases()


@pytest.mark.parametrize(
    "end",
    [
        expire,
        lambda rig: rig.exporter.cancel(rig.ticket.transfer_id),
        lambda rig: rig.exporter.close(),
    ],
)
def test_stalled_fetcher_does_not_hold_the_blocks(
    rig: Rig, end: Callable[[Rig], None]
) -> None:
    with rig.stall():
        assert not rig.released.is_set()
        end(rig)
        assert rig.released.wait(WAIT)


def test_new_fetch_replaces_a_stalled_one(rig: Rig) -> None:
    with rig.stall():
        assert fetch(rig.ticket) == [rig.block]
        assert rig.released.wait(WAIT)
    with pytest.raises(TransferRefused):
        fetch(rig.ticket)


def test_fetcher_that_vanishes_leaves_the_export(rig: Rig) -> None:
    rig.stall().close()
    assert fetch(rig.ticket) == [rig.block]


def test_garbage_is_answered_and_the_exporter_goes_on(rig: Rig) -> None:
    for garbage in (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".ljust(32), DONE):
        with rig.connect(garbage) as sock:
            frame = wire.read_frame(sock.recv_into)
            assert isinstance(frame, wire.Failure)
            assert frame.code is wire.ErrorCode.PROTOCOL
    assert fetch(rig.ticket) == [rig.block]


def test_connections_are_bounded(rig: Rig) -> None:
    with rig.connect(b""), rig.stall():
        with pytest.raises(TransferTimeout):
            fetch(rig.ticket, timeout=0.2)
    assert fetch(rig.ticket) == [rig.block]
