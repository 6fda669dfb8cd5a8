"""A man in the middle of two engines, who takes apart what passes and may change it."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from prefillshare.errors import TransferBroken
from prefillshare.transfer.tcp import dial
from prefillshare.transfer.tcp.frames import read_exactly
from prefillshare.transfer.tcp.slices import HEAD_BYTES
from prefillshare.transfer.tcp.sockets import format_address, parse_address

Kind = Literal["control", "data"]
Way = Literal["to lender", "to mover"]
# Head and length of a frame, a TLS record and a slice: bytes, and where the length is.
_FRAME, _RECORD = (16, "!I", 0), (5, "!H", 3)
_SLICE = (HEAD_BYTES, "!I", 12)


@dataclass(frozen=True)
class Unit:
    """A frame, a slice, or what comes before them; the `index`-th of its way."""

    kind: Kind
    way: Way
    connection: int
    index: int
    data: bytes


@dataclass(eq=False)
class Passing:
    """A connection that is passed on, the `number`-th of all, from 0."""

    number: int
    near: socket.socket
    far: socket.socket
    kind: Kind = "control"
    passed: int = 0

    def reset(self) -> None:
        """Have both ends see that it broke, and lose what is under way."""
        for sock in (self.near, self.far):
            with contextlib.suppress(OSError):
                linger = struct.pack("ii", 1, 0)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """With a reset, if there was one."""
        self.near.close()
        self.far.close()


# What is passed on instead of a unit, in several pieces; None breaks the connection.
Tamper = Callable[[Unit], Iterable[bytes | None]]


def untouched(unit: Unit) -> Sequence[bytes | None]:
    """Pass it on."""
    return [unit.data]


@dataclass(eq=False)
class Once:
    """Tampers with the first unit of which `which` holds, and then with no other."""

    which: Callable[[Unit], bool]
    how: Tamper
    done: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, unit: Unit) -> Iterable[bytes | None]:
        with self._lock:
            if self.done.is_set() or not self.which(unit):
                return [unit.data]
            self.done.set()
        return self.how(unit)


class Middleman:
    """Connections to its `address` reach the target."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.tamper: Tamper = untouched
        # Whether data connections are turned away.
        self.refusing = False
        self.connections: list[Passing] = []
        self._threads: list[threading.Thread] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = format_address("127.0.0.1", self._server.getsockname()[1])
        self._start(self._accept)

    def data(self) -> list[Passing]:
        """The data connections so far."""
        return [each for each in list(self.connections) if each.kind == "data"]

    def close(self) -> None:
        """End all connections."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        for passing in list(self.connections):
            passing.reset()
        for thread in self._threads:
            thread.join()
        self._server.close()

    def _start(self, run: Callable[..., None], *args: object) -> threading.Thread:
        thread = threading.Thread(target=run, args=args)
        self._threads.append(thread)
        thread.start()
        return thread

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(parse_address(self.target))
            except OSError:
                near.close()
                continue
            passing = Passing(len(self.connections), near, far)
            self.connections.append(passing)
            self._start(self._pass, passing)

    def _pass(self, passing: Passing) -> None:
        first = b""
        with contextlib.suppress(OSError):
            first = passing.near.recv(1, socket.MSG_PEEK)
        if first == dial.STREAM_MAGIC[:1]:
            passing.kind = "data"
        if passing.kind == "data" and self.refusing:
            passing.reset()
        back = self._start(self._carry, passing, "to mover", first[:1])
        self._carry(passing, "to lender", first[:1])
        back.join()
        passing.close()

    def _carry(self, passing: Passing, way: Way, first: bytes) -> None:
        source, sink = passing.near, passing.far
        if way == "to mover":
            source, sink = sink, source
        with contextlib.suppress(OSError, TransferBroken):
            for index, data in enumerate(_units(source, passing.kind, way, first)):
                unit = Unit(passing.kind, way, passing.number, index, data)
                for piece in self.tamper(unit):
                    if piece is None:
                        passing.reset()
                        return
                    sink.sendall(piece)
                passing.passed += len(data)
        # Either end's end is the other's.
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def _units(sock: socket.socket, kind: Kind, way: Way, first: bytes) -> Iterator[bytes]:
    if kind == "data":
        yield read_exactly(sock.recv, dial.STREAM.size if way == "to lender" else 1)
    whole = _SLICE if kind == "data" else _RECORD if first == b"\x16" else _FRAME
    size, form, at = whole
    while True:
        head = read_exactly(sock.recv, size)
        (length,) = struct.unpack_from(form, head, at)
        yield head + read_exactly(sock.recv, length)


@contextmanager
def middleman(target: str) -> Iterator[Middleman]:
    """One that is gone after the block."""
    made = Middleman(target)
    try:
        yield made
    finally:
        made.close()


def flipped(data: bytes, byte: int) -> bytes:
    """The same but for one bit of a byte."""
    changed = bytearray(data)
    changed[byte] ^= 1
    return bytes(changed)
