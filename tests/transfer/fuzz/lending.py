"""A lender as a peer sees it: the port of an engine, and a session of one."""

from __future__ import annotations

import functools
import select
import socket
import threading
from contextlib import suppress
from typing import Literal

import numpy as np

from prefillshare.transfer.base import GrantEnd, Outcome
from prefillshare.transfer.grants import GrantTable
from prefillshare.transfer.ranges import Pieces
from prefillshare.transfer.secure.channel import PlainChannel
from prefillshare.transfer.tcp.engine import TcpEngine
from prefillshare.transfer.tcp.lender import Lender
from prefillshare.transfer.tcp.session import Agreed, Session
from prefillshare.transfer.tcp.settings import TcpSettings
from prefillshare.transfer.tcp.sockets import parse_address
from prefillshare.transfer.timer import Timer
from tests.transfer.fuzz.defects import no_defect
from tests.transfer.fuzz.programs import Act, Carry, Grants, Program, Say

SECONDS, BRIEF = 20.0, 0.03
SETTINGS = TcpSettings(grace_seconds=0.001, handshake_seconds=1.0)
GRANT_BYTES = 3 << 14
# Around what is granted, and between its two pieces.
RIM = b"\xa5" * 64


def greeting(data: bytes) -> None:
    """The first that comes to the port of an engine, whatever it is."""
    with no_defect():
        address = parse_address(_engine().address)
        with socket.create_connection(address, SECONDS) as sock:
            with suppress(OSError):
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(1 << 16):
                    pass


@functools.cache
def _engine() -> TcpEngine:
    return TcpEngine(settings=SETTINGS)


def session(data: bytes) -> None:
    """What a peer says and sends, see `programs`, to a lender that knows it."""
    with no_defect():
        victim = Victim()
        try:
            victim.hear(Program(data, victim.grants))
        finally:
            victim.close()
        victim.check()


class Victim:
    """A lender of two grants, one to read and one to write, with a session.

    What it is sent comes in pieces of `step` bytes.
    """

    def __init__(self, step: int = 1 << 20) -> None:
        self._step = step
        self.ends: dict[str, list[GrantEnd]] = {"r": [], "w": []}
        self.memory = {"r": _memory(1), "w": _memory(2)}
        self.grants: Grants = {}
        self._table, self._timer = GrantTable(), Timer()
        self._timer.start()
        self._lend("r", "read")
        self._lend("w", "write")
        self._near, far = socket.socketpair()
        self._near.settimeout(SECONDS)
        self._streams: list[socket.socket] = []
        lender = Lender(self._table, lambda _: None)
        agreed = Agreed(bytes(16), bytes(32), bytes(16), sealed=False)
        self._session = Session(
            PlainChannel(far), agreed, lender, SETTINGS, self._timer
        )
        self._session.start()
        self._drains = [_drained(self._near)]

    def _lend(self, letter: str, access: Literal["read", "write"]) -> None:
        half = GRANT_BYTES // 2
        first = len(RIM)
        ranges = np.array([[first + half + first, half], [first, half]])
        pieces = Pieces(memoryview(self.memory[letter]), ranges)
        on_end = self.ends[letter].append
        where = "tcp://a:1", "00" * 16
        grant = self._table.add(pieces, access, *where, on_end, lease_seconds=600)
        key, secret = bytes.fromhex(grant.grant_id), bytes.fromhex(grant.capability)
        self.grants[letter] = key, secret

    def hear(self, program: Program) -> None:
        """Say and send all of it; the session may end at any point."""
        with suppress(OSError):
            for act in program.acts():
                self._do(act)

    def _do(self, act: Act) -> None:
        match act:
            case Say(data):
                self._send(self._near, data)
            case Carry(number, data):
                self._stream(number, data)

    def _stream(self, number: int, data: bytes) -> None:
        if number >= len(self._streams):
            near, far = socket.socketpair()
            # A stream that waits for its transfer does not take all that comes.
            near.settimeout(BRIEF)
            self._streams.append(near)
            try:
                self._session.attach(len(self._streams), far)
            except Exception:
                far.close()
                raise OSError from None
            self._drains.append(_drained(near))
            number = len(self._streams) - 1
        sock = self._streams[number]
        if data:
            self._send(sock, data)
        else:
            sock.shutdown(socket.SHUT_RDWR)

    def _send(self, sock: socket.socket, data: bytes) -> None:
        for first in range(0, len(data), self._step):
            sock.sendall(data[first : first + self._step])

    def close(self) -> None:
        """The peer leaves; all that it had comes to its end."""
        for sock in self._streams:
            _say_no_more(sock)
        # What has arrived by a stream is looked at first, unless the stream waits for
        # a transfer that does not come.
        for drain in self._drains[1:]:
            drain.join(BRIEF)
        _say_no_more(self._near)
        self._session.join()
        for drain in self._drains:
            drain.join()
        for sock in (self._near, *self._streams):
            sock.close()
        self._table.close()
        assert self._table.join(SECONDS)
        self._timer.close()

    def check(self) -> None:
        """Raise unless it ended as it must, and nothing was written elsewhere."""
        assert not self._session.running
        for letter, told in self.ends.items():
            assert len(told) == 1, told
            allowed = {Outcome.DONE, Outcome.CLOSED}
            assert told[0].outcome in allowed
            assert self.memory[letter].count(RIM) == 3
        assert self.memory["r"] == _memory(1)


def _memory(fill: int) -> bytearray:
    half = bytes([fill]) * (GRANT_BYTES // 2)
    return bytearray(RIM + half + RIM + half + RIM)


def _say_no_more(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_WR)


def _drained(sock: socket.socket) -> threading.Thread:
    thread = threading.Thread(target=_drain, args=(sock,))
    thread.start()
    return thread


def _drain(sock: socket.socket) -> None:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    with suppress(OSError):
        while poll.poll(1000 * SECONDS) and sock.recv(1 << 16):
            pass
