"""The data connections of a session: those that carry, and those that broke."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from functools import partial

from prefillshare.errors import (
    TransferBroken,
    TransferError,
    TransferIntegrityError,
    TransferRefused,
)
from prefillshare.transfer.tcp.board import Board
from prefillshare.transfer.tcp.ends import End
from prefillshare.transfer.tcp.pacing import Pacer
from prefillshare.transfer.tcp.slices import Ledger
from prefillshare.transfer.tcp.stream import Stream


class Streams:
    """Streams by number, `most` of them; numbers go up. Any thread may call.

    A stream that breaks stays until the peer has been told what arrived by it, and what
    it carried from here is to be sent again once the peer has said what arrived there.
    """

    def __init__(
        self,
        board: Board,
        pacer: Pacer,
        lost: Callable[[Stream, TransferError | None], None],
        spoiled: Callable[[End, TransferError], None],
        most: int,
    ) -> None:
        self._board, self._most = board, most
        self._make = partial(
            Stream, board=board, pacer=pacer, lost=lost, spoiled=spoiled
        )
        self._lock = threading.Lock()
        self._streams: dict[int, Stream] = {}
        self._asked: dict[int, dict[int, Ledger]] = {}
        self._newest = 0
        self._closed = False

    def attach(self, number: int, sock: socket.socket, welcome: bytes) -> None:
        """Carry slices over a connected socket.

        `welcome` is sent first, once the stream is sure to be taken: the peer makes the
        next one only then. Raises `TransferBroken` if the session is over or there is
        no thread for it, `TransferRefused` for a number that was there before, or too
        many streams, `OSError`.
        """
        with self._lock:
            if self._closed:
                raise TransferBroken("the session is over")
            if number <= self._newest:
                raise TransferRefused(f"stream {number} comes after {self._newest}")
            if max(len(self._streams), len(self._asked)) >= self._most:
                raise TransferRefused(
                    f"a session has at most {self._most} streams, broken ones among "
                    "them; set `streams` alike on both sides"
                )
            self._newest = number
            sock.sendall(welcome)
            stream = self._make(number, sock)
            stream.start()
            self._streams[number] = stream

    def carrying(self) -> list[Stream]:
        """Those that carry now."""
        with self._lock:
            return [each for each in self._streams.values() if each.alive()]

    def retire(self, number: int) -> None:
        """Let nothing arrive by a stream any more, even if it is yet to come."""
        with self._lock:
            self._newest = max(self._newest, number)
            stream = self._streams.get(number)
        if stream is not None:
            stream.shut()
            stream.join()
            with self._lock:
                self._streams.pop(number, None)

    def ask(self, number: int) -> None:
        """The peer is asked what arrived by a stream that broke."""
        with self._lock:
            self._asked[number] = {}

    def hear(self, number: int, transfer: int, bits: bytes) -> None:
        """The peer says which slices of a transfer arrived.

        `TransferIntegrityError` if it was not asked.
        """
        with self._lock:
            if number not in self._asked:
                raise TransferIntegrityError(f"nobody asked about stream {number}")
            if self._board.find(transfer) is not None:
                self._asked[number][transfer] = Ledger.from_bytes(bits)

    def know(self, number: int) -> dict[int, Ledger]:
        """What arrived by all that was heard; raises as `hear`."""
        with self._lock:
            if number not in self._asked:
                raise TransferIntegrityError(f"nobody asked about stream {number}")
            return self._asked.pop(number)

    def shut(self) -> None:
        """Break all off, and take no more."""
        with self._lock:
            self._closed = True
            streams = list(self._streams.values())
        for stream in streams:
            stream.shut()

    def join(self) -> None:
        """Wait, after `shut`, until their threads have ended."""
        with self._lock:
            streams, self._streams = list(self._streams.values()), {}
        for stream in streams:
            stream.join()

    def here(self) -> bool:
        """Whether the caller is a thread of a stream."""
        with self._lock:
            streams = list(self._streams.values())
        return any(threading.current_thread() in each.threads for each in streams)
