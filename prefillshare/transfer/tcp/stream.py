"""One data connection: a thread that sends slices, and one that receives them."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable

from prefillshare.errors import TransferBroken, TransferIntegrityError
from prefillshare.transfer.tcp.board import Board
from prefillshare.transfer.tcp.ends import Receiving
from prefillshare.transfer.tcp.pacing import Pacer
from prefillshare.transfer.tcp.slices import HEAD_BYTES, TAG_BYTES, SliceHead
from prefillshare.transfer.tcp.sockets import (
    StreamInfo,
    kernel_info,
    receive_all,
    send_all,
    shut,
)

_log = logging.getLogger(__name__)


class Stream:
    """Carries slices both ways until it breaks or is shut.

    `lost` is called once, on one of its threads: with what made no sense on it, or with
    None if it just ended.
    """

    def __init__(
        self,
        number: int,
        sock: socket.socket,
        board: Board,
        pacer: Pacer,
        lost: Callable[[Stream, TransferIntegrityError | None], None],
    ) -> None:
        self.number = number
        self._sock, self._board, self._pacer, self._lost = sock, board, pacer, lost
        self._lock = threading.Lock()
        self._over = False
        self.bytes_sent = self.bytes_received = 0
        self._staging = bytearray()
        self.threads = [
            threading.Thread(target=run, name=f"kv-{name}-{number}", daemon=True)
            for name, run in (("send", self._send), ("receive", self._receive))
        ]

    def start(self) -> None:
        """Begin to carry."""
        for thread in self.threads:
            thread.start()

    def alive(self) -> bool:
        """Whether it still carries."""
        return not self._over

    def shut(self) -> None:
        """Break it off, from any thread."""
        self._end(None)

    def join(self) -> None:
        """Wait for its threads, which end soon after `shut`, and close the socket."""
        for thread in self.threads:
            if thread is not threading.current_thread() and thread.ident is not None:
                thread.join()
        self._sock.close()

    def join_receiver(self) -> None:
        """Wait until nothing more can arrive."""
        self.threads[1].join()

    def info(self) -> StreamInfo:
        """What is known of the connection; `OSError` once it is closed."""
        known = kernel_info(self._sock)
        return StreamInfo(self.number, *known, self.bytes_sent, self.bytes_received)

    def _end(self, error: TransferIntegrityError | None) -> None:
        with self._lock:
            if self._over:
                return
            self._over = True
        shut(self._sock)
        self._board.wake()
        self._lost(self, error)

    def _send(self) -> None:
        staging = bytearray()
        while (job := self._board.take(self.number, self.alive)) is not None:
            end, head = job
            self._pacer.wait(head.length)
            fixed, views = head.pack(), end.views(head)
            need = head.length + TAG_BYTES if end.guard.staged else 0
            staging = _grown(staging, need)
            try:
                tag, payload = end.guard.protect(fixed, head.sequence, views, staging)
                send_all(self._sock, [fixed + tag, *payload])
            except OSError:
                self._board.leave(end, self.number)
                break
            self.bytes_sent += head.length
            self._board.sent(end, head, self.number)
        self._end(None)

    def _receive(self) -> None:
        head = memoryview(bytearray(HEAD_BYTES))
        error = None
        try:
            while True:
                receive_all(self._sock, [head])
                self._admit(SliceHead.unpack(head), bytes(head))
        except (OSError, TransferBroken):
            pass
        except TransferIntegrityError as bad:
            error = bad
        self._end(error)

    def _admit(self, head: SliceHead, raw: bytes) -> None:
        claim = self._board.claim(head, self.number, self.alive)
        if claim is None:
            self._staging = _grown(self._staging, head.length)
            receive_all(self._sock, [memoryview(self._staging)[: head.length]])
            return
        end, views = claim
        try:
            self._take(end, head, raw, views)
        except TransferIntegrityError as error:
            _log.warning("%s: %s", head, error)
            self._board.release(end, head, self.number)
            self._board.end(end, error)
        except BaseException:
            self._board.release(end, head, self.number)
            raise
        else:
            self.bytes_received += head.length
            self._board.settle(end, head, self.number)

    def _take(
        self, end: Receiving, head: SliceHead, raw: bytes, views: list[memoryview]
    ) -> None:
        fixed, tag = raw[:-TAG_BYTES], raw[-TAG_BYTES:]
        received = None
        if end.guard.staged:
            self._staging = _grown(self._staging, head.length + TAG_BYTES)
            received = memoryview(self._staging)[: head.length + TAG_BYTES]
            receive_all(self._sock, [received[: head.length]])
        else:
            receive_all(self._sock, views)
        end.guard.verify(fixed, head.sequence, tag, views, received)


def _grown(buffer: bytearray, size: int) -> bytearray:
    return buffer if len(buffer) >= size else bytearray(size)
