"""Messages over a Unix socket, and waits on it that can be broken off.

The lender greets with its engine id, and a reply that says whether the process at the
other end may be its peer. The peer sends one request; the lender replies
with OK, for a read with the granted ranges of the arena and its descriptor. A peer that
reads copies by itself; one that writes sends DATA: ranges, and the bytes for them. At
the end the peer sends DONE and the lender replies. A reply that comes earlier ends the
transfer, and says why.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from prefillshare.errors import (
    TransferBroken,
    TransferEnded,
    TransferError,
    TransferIntegrityError,
    TransferRefused,
)
from prefillshare.transfer.base import CAPABILITY_BYTES, ID_BYTES, Ranges
from prefillshare.transfer.rows import rest

MAGIC = b"ps-shm-1"
MAX_RANGES = 1 << 22
MAX_TEXT = 1 << 12
# The kernel takes at most so many buffers a call.
IOV_MAX = 1024
GREETING = struct.Struct(f"!8s{ID_BYTES}s")
REQUEST = struct.Struct(f"!B{ID_BYTES}s{CAPABILITY_BYTES}s")
REPLY = struct.Struct("!BHI")
MESSAGE = struct.Struct("!BIQ")
_CODES: list[type[TransferError]] = [
    TransferRefused,
    TransferEnded,
    TransferIntegrityError,
    TransferBroken,
]


class Kind(IntEnum):
    """What a request or message is."""

    READ = 1
    WRITE = 2
    MAP = 3
    DATA = 4
    DONE = 5


@dataclass(frozen=True)
class Reply:
    """A lender's answer: OK, or an error; the descriptor is the receiver's to close."""

    error: TransferError | None
    ranges: Ranges | None = None
    descriptor: int = -1


class Channel:
    """A connected socket whose waits another thread can break off by `wake`.

    Waits take a `check`, called before each, which raises to end the wait and says how
    many seconds are left, None if there is no end. Raises `TransferBroken` if the peer
    is gone.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._lock = threading.Lock()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._open = True

    def wake(self) -> None:
        """Have a wait that is under way, or the next, call its `check` again."""
        with self._lock:
            if self._open:
                os.eventfd_write(self._event, 1)

    def close(self) -> None:
        """Disconnect; may be repeated."""
        with self._lock:
            if self._open:
                self._open = False
                os.close(self._event)
                self.sock.close()

    def ready(self, events: int, seconds: float | None) -> bool:
        """Whether the socket is, within so many seconds and before a `wake`."""
        poll = select.poll()
        poll.register(self.sock, events)
        poll.register(self._event, select.POLLIN)
        found = dict(poll.poll(None if seconds is None else seconds * 1000))
        if self._event in found:
            os.eventfd_read(self._event)
        return self.sock.fileno() in found

    def receive_into(
        self, views: Sequence[memoryview], check: Callable[[], float | None]
    ) -> None:
        """Fill all views."""
        left = list(views)
        while left:
            left_seconds = check()
            try:
                got = self.sock.recvmsg_into(left[:IOV_MAX])[0]
            except BlockingIOError:
                self.ready(select.POLLIN, left_seconds)
                continue
            except OSError as error:
                raise TransferBroken(f"the peer is gone: {error}") from error
            if not got:
                raise TransferBroken("the peer is gone: it closed the connection")
            left = rest(left, got)

    def receive(self, size: int, check: Callable[[], float | None]) -> bytes:
        """Exactly `size` bytes."""
        buffer = bytearray(size)
        self.receive_into([memoryview(buffer)] if size else [], check)
        return bytes(buffer)

    def send(
        self, buffers: Sequence[bytes | memoryview], check: Callable[[], float | None]
    ) -> None:
        """Send all buffers."""
        left = [memoryview(buffer) for buffer in buffers if len(buffer)]
        while left:
            left_seconds = check()
            try:
                sent = self.sock.sendmsg(left[:IOV_MAX])
            except BlockingIOError:
                self.ready(select.POLLOUT, left_seconds)
                continue
            except OSError as error:
                raise TransferBroken(f"the peer is gone: {error}") from error
            left = rest(left, sent)

    def reply(
        self,
        check: Callable[[], float | None],
        error: TransferError | None = None,
        ranges: Ranges | None = None,
        descriptor: int = -1,
    ) -> None:
        """Send a reply; the descriptor remains the caller's."""
        code = 0
        if error:
            code = 1 + next(
                (n for n, kind in enumerate(_CODES) if isinstance(error, kind)), 3
            )
        text = str(error or "").encode()[:MAX_TEXT]
        table = b"" if ranges is None else ranges.astype("<i8").tobytes()
        head = REPLY.pack(code, len(text), len(table) // 16)
        if descriptor >= 0:
            # The socket is fresh: a few bytes always have room.
            try:
                socket.send_fds(self.sock, [head], [descriptor])
            except OSError as failure:
                raise TransferBroken(f"the peer is gone: {failure}") from failure
            head = b""
        self.send([head, text, table], check)

    def receive_reply(
        self, check: Callable[[], float | None], descriptors: int = 0
    ) -> Reply:
        """Receive one; `descriptors` says how many may come with it."""
        check_left = check()
        while not self.ready(select.POLLIN, check_left):
            check_left = check()
        try:
            head, got, flags, _ = socket.recv_fds(self.sock, REPLY.size, descriptors)
        except OSError as error:
            raise TransferBroken(f"the peer is gone: {error}") from error
        if descriptors and not got and flags & socket.MSG_CTRUNC:
            # The kernel says so in no other way.
            raise TransferBroken("no descriptor is left for what the peer lends")
        descriptor = got[0] if got else -1
        try:
            head += self.receive(REPLY.size - len(head), check)
            code, length, count = REPLY.unpack(head)
            if code > len(_CODES) or length > MAX_TEXT or count > MAX_RANGES:
                raise TransferIntegrityError("the peer sent no reply of this protocol")
            text = self.receive(length, check).decode(errors="replace")
            table = np.frombuffer(self.receive(16 * count, check), "<i8")
        except BaseException:
            if descriptor >= 0:
                os.close(descriptor)
            raise
        wrong = _CODES[code - 1](text) if code else None
        return Reply(wrong, table.reshape(-1, 2).astype(np.int64), descriptor)


def peer_uid(sock: socket.socket) -> int:
    """The user id of the process at the other end, as the kernel knows it."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", raw)[1])


def check_peer(sock: socket.socket) -> None:
    """Raise `TransferRefused` unless the other process has this one's user."""
    if (uid := peer_uid(sock)) != os.getuid():
        raise TransferRefused(
            f"the process at the other end is of user {uid}, this one of "
            f"{os.getuid()}: memory is shared within one user only"
        )
