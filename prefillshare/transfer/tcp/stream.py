"""One data connection: a thread that sends slices, and one that receives them."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable

from prefillshare.errors import (
    TransferBroken,
    TransferError,
    TransferIntegrityError,
)
from prefillshare.transfer.base import StreamInfo
from prefillshare.transfer.tcp.board import Board
from prefillshare.transfer.tcp.ends import End, Receiving, Sending
from prefillshare.transfer.tcp.pacing import Pacer
from prefillshare.transfer.tcp.slices import HEAD_BYTES, TAG_BYTES, SliceHead
from prefillshare.transfer.tcp.sockets import (
    kernel_info,
    receive_all,
    send_all,
    shut,
)

_log = logging.getLogger(__name__)
# What nobody wants is thrown away in pieces of so many bytes.
_UNWANTED_BYTES = 1 << 16


class Stream:
    """Carries slices both ways until it breaks or is shut.

    `lost` is called once, on one of its threads or that of who shut it: with what ends
    the session, or with None if the stream just ended. `spoiled` is told why a transfer
    cannot go on.
    """

    def __init__(
        self,
        number: int,
        sock: socket.socket,
        board: Board,
        pacer: Pacer,
        lost: Callable[[Stream, TransferError | None], None],
        spoiled: Callable[[End, TransferError], None],
    ) -> None:
        self.number = number
        self._sock, self._board, self._pacer = sock, board, pacer
        self._lost, self._spoiled = lost, spoiled
        self._lock = threading.Lock()
        self._over = False
        self.bytes_sent = self.bytes_received = 0
        self._outgoing, self._incoming = bytearray(), bytearray()
        self.threads = [
            threading.Thread(target=run, name=f"kv-{name}-{number}", daemon=True)
            for name, run in (("send", self._send), ("receive", self._receive))
        ]

    def start(self) -> None:
        """Begin to carry; `TransferBroken`, and it is over, if there is no thread."""
        try:
            for thread in self.threads:
                thread.start()
        except RuntimeError as error:
            with self._lock:
                self._over = True
            shut(self._sock)
            self._board.wake()
            self.join()
            raise TransferBroken(
                f"no thread for stream {self.number} ({error}); allow more, or free "
                "memory"
            ) from error

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

    def info(self) -> StreamInfo:
        """What is known of the connection; `OSError` once it is closed."""
        known = kernel_info(self._sock)
        return StreamInfo(self.number, *known, self.bytes_sent, self.bytes_received)

    def _end(self, error: TransferError | None) -> None:
        with self._lock:
            if self._over:
                return
            self._over = True
        shut(self._sock)
        self._board.wake()
        self._pacer.wake()
        self._lost(self, error)

    # An idle stream must not keep the memory of what it carried last, so each slice has
    # a call of its own.

    def _send(self) -> None:
        error = None
        try:
            while (job := self._board.take(self.number, self.alive)) is not None:
                if not self._put(*job):
                    break
                del job
        except MemoryError:
            error = TransferBroken("no memory for what a stream sends; free some")
        # The stream itself stays until the peer has heard that it broke.
        self._outgoing = bytearray()
        self._end(error)

    def _put(self, end: Sending, head: SliceHead) -> bool:
        self._pacer.wait(head.length, self.alive)
        try:
            fixed, views = head.pack(), end.views(head)
            need = head.length + TAG_BYTES if end.guard.staged else 0
            self._outgoing = _grown(self._outgoing, need)
            tag, payload = end.guard.protect(
                fixed, head.sequence, views, self._outgoing
            )
            send_all(self._sock, [fixed + tag, *payload])
        except OSError:
            # It counts as sent until what became of it is known, as all on this stream.
            self._board.sent(end, head, self.number)
            return False
        except MemoryError:
            self._board.sent(end, head, self.number)
            self._spoiled(end, _no_memory(head))
            return False
        self.bytes_sent += head.length
        self._board.sent(end, head, self.number)
        return True

    def _receive(self) -> None:
        head = memoryview(bytearray(HEAD_BYTES))
        error: TransferError | None = None
        try:
            while True:
                receive_all(self._sock, [head])
                self._admit(SliceHead.unpack(head), bytes(head))
        except (OSError, TransferBroken):
            pass
        except TransferIntegrityError as bad:
            error = bad
        except MemoryError:
            error = TransferBroken("no memory for what a stream receives; free some")
        self._incoming = bytearray()
        self._end(error)

    def _admit(self, head: SliceHead, raw: bytes) -> None:
        claim = self._board.claim(head, self.number, self.alive)
        if claim is None:
            self._throw_away(head.length)
            return
        end, views = claim
        try:
            self._take(end, head, raw, views)
        except TransferIntegrityError as error:
            _log.warning("%s: %s", head, str(error))
            self._board.release(end, head, self.number)
            self._spoiled(end, error)
        except MemoryError as error:
            self._board.release(end, head, self.number)
            self._spoiled(end, _no_memory(head))
            raise TransferBroken("no memory for a slice") from error
        except BaseException:
            self._board.release(end, head, self.number)
            raise
        else:
            self.bytes_received += head.length
            self._board.settle(end, head, self.number)

    def _throw_away(self, left: int) -> None:
        piece = memoryview(bytearray(min(left, _UNWANTED_BYTES)))
        while left:
            receive_all(self._sock, [piece[:left]])
            left -= min(left, len(piece))

    def _take(
        self, end: Receiving, head: SliceHead, raw: bytes, views: list[memoryview]
    ) -> None:
        fixed, tag = raw[:-TAG_BYTES], raw[-TAG_BYTES:]
        received = None
        if end.guard.staged:
            self._incoming = _grown(self._incoming, head.length + TAG_BYTES)
            received = memoryview(self._incoming)[: head.length + TAG_BYTES]
            receive_all(self._sock, [received[: head.length]])
        else:
            receive_all(self._sock, views)
        end.guard.verify(fixed, head.sequence, tag, views, received)


def _grown(buffer: bytearray, size: int) -> bytearray:
    return buffer if len(buffer) >= size else bytearray(size)


def _no_memory(head: SliceHead) -> TransferBroken:
    return TransferBroken(
        f"no memory for a slice of {head.length} bytes; free some, or use smaller "
        "slices"
    )
