"""Bytes as what a peer says in a session: frames and slices, well-formed or not.

Each act begins with a byte that says which, and takes what it needs of the bytes that
follow, zeros at the end. So almost every input is frames that a session has to judge
by what came before them, not by their form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from prefillshare.transfer.base import CAPABILITY_BYTES, ID_BYTES
from prefillshare.transfer.secure.sealing import Checksum
from prefillshare.transfer.tcp import frames
from prefillshare.transfer.tcp.slices import SliceHead

# Grants by the letter that stands for them in a program.
Grants = dict[str, tuple[bytes, bytes]]


@dataclass(frozen=True)
class Say:
    """Bytes of the control connection."""

    data: bytes


@dataclass(frozen=True)
class Carry:
    """Bytes of a stream; none end it. A number above the last one makes it."""

    stream: int
    data: bytes


Act = Say | Carry


def framed(kind: int, body: bytes, place: int) -> bytes:
    """A frame of any kind and body that says of itself that it is whole."""
    head = frames._HEAD.pack(len(body), kind, bytes(3))
    return head + frames._SUM.pack(frames._sum_of(head, body, place)) + body


class Program:
    """Acts out of bytes; `grants` are those that a peer may name."""

    def __init__(self, data: bytes, grants: Grants) -> None:
        self._data, self._at, self._grants = data, 0, grants
        self._place = 0
        self._makers: list[Callable[[], frames.Frame]] = [
            self._open,
            self._add,
            lambda: frames.Finish(self._u8(), self._u16()),
            self._eager,
            lambda: frames.Done(self._u8()),
            lambda: frames.Fail(self._u8(), self._u8(), self._take(4)),
            lambda: frames.Lost(self._u8()),
            lambda: frames.Have(self._u8(), self._u8(), self._take(self._u8() % 8)),
            lambda: frames.Known(self._u8()),
            frames.Ping,
            frames.Pong,
            lambda: frames.Hello(
                frames.MAGIC, 1, 0, bytes(ID_BYTES), bytes(ID_BYTES), bytes(32)
            ),
        ]

    def acts(self) -> Iterator[Act]:
        """All of them."""
        while self._at < len(self._data):
            yield self._act(self._u8() % (len(self._makers) + 5))

    def _act(self, which: int) -> Act:
        match which - len(self._makers):
            case 0:
                return Say(self._next(self._u8(), self._take(self._u8() % 64)))
            case 1:
                return Say(self._take(self._u8() % 64))
            case 2 | 3:
                return self._slice()
            case 4:
                return Carry(self._u8() % 8, self._take(self._u8() % 64))
        frame = self._makers[which]()
        body = frame.encode()[frames._HEAD.size + frames._SUM.size :]
        return Say(self._next(frame.kind, body))

    def _next(self, kind: int, body: bytes) -> bytes:
        self._place += 1
        return framed(kind, body, self._place)

    def _open(self) -> frames.Frame:
        slice_bytes = frames.MIN_SLICE_BYTES << self._u8() % 4
        number, write = self._u8(), bool(self._u8() & 1)
        key = bytes(CAPABILITY_BYTES)
        return frames.Open(number, write, slice_bytes, *self._grant(), key, b"note")

    def _add(self) -> frames.Frame:
        number = self._u8()
        return frames.Add(number, self._table(self._u8() % 4 + 1))

    def _eager(self) -> frames.Frame:
        number, count = self._u8(), self._u8() % 4 + 1
        grant, table = self._grant(), self._table(count)
        payload = bytes(int(frames.unpacked(table)[:, 1].sum()))
        if self._u8() & 1:
            payload = payload[:-1]
        rest = table + b"note" + payload[: frames.EAGER_BYTES]
        return frames.Eager(number, *grant, count, 4, rest)

    def _slice(self) -> Act:
        stream, number, place = self._u8() % 8, self._u8(), self._u8()
        length, sequence = self._u16() + 1, self._u8()
        head, payload = SliceHead(number, place, length, sequence).pack(), bytes(length)
        views = [memoryview(payload)]
        tag, _ = Checksum().protect(head, sequence, views, bytearray())
        if self._u8() & 1:
            tag = bytes(len(tag))
        return Carry(stream, head + tag + payload)

    def _grant(self) -> tuple[bytes, bytes]:
        which = self._u8() % 8
        grant, secret = self._grants["r" if which & 1 else "w"]
        if which == 6:
            return bytes(ID_BYTES), secret
        return (grant, bytes(CAPABILITY_BYTES)) if which == 7 else (grant, secret)

    def _table(self, count: int) -> bytes:
        rows = [(self._u16(), self._u16() + 1) for _ in range(count)]
        return frames.packed(np.array(rows, np.int64))

    def _u8(self) -> int:
        return self._take(1)[0]

    def _u16(self) -> int:
        return int.from_bytes(self._take(2))

    def _take(self, size: int) -> bytes:
        found = self._data[self._at : self._at + size].ljust(size, b"\0")
        self._at += size
        return found
