"""An engine that lends memory to other processes of its host and user."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable

from prefillshare.errors import ConfigError, TransferClosed
from prefillshare.transfer.arena import Arena
from prefillshare.transfer.base import Access, Grant, GrantEnd, Ranges, Region
from prefillshare.transfer.local import LocalEngine
from prefillshare.transfer.pending import STOP_SECONDS
from prefillshare.transfer.shm.connect import open_channel, socket_address
from prefillshare.transfer.shm.lender import Lender
from prefillshare.transfer.shm.link import ShmLink
from prefillshare.transfer.shm.wire import Channel

_log = logging.getLogger(__name__)
_SHORT_SECONDS = 0.05


class ShmEngine(LocalEngine):
    """An `Engine` at `shm:///path/to/socket` or `shm://@name`, a new name by default.

    What it grants for reading must lie in `arena`, which stays the caller's: readers
    map it. Whoever writes sends its bytes through the socket, so that nobody but the
    owner can write to the arena, and granted memory for that may be any. The kernel
    names the process at the other end; one of another user is refused. `clock`
    measures leases, in seconds.

    A reader that was handed memory is asked to stop when the grant is withdrawn; the
    owner is told when it has, or when its process is gone.

    Raises `ConfigError` if the address is taken, `ValueError` if it is malformed.
    """

    def __init__(
        self,
        arena: Arena | None = None,
        address: str | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = address or f"shm://@prefillshare-{secrets.token_hex(8)}"
        self._arena = arena
        self._where = socket_address(self._address)
        self._socket = _listen(self._where, self._address)
        super().__init__(clock)
        self._served: dict[threading.Thread, Lender] = {}
        self._ending = threading.Event()
        self._acceptor = threading.Thread(
            target=self._accept, name="shm-accept", daemon=True
        )
        self._acceptor.start()

    @property
    def address(self) -> str:
        """See `Engine.address`."""
        return self._address

    def grant(
        self,
        region: Region,
        ranges: Ranges,
        access: Access,
        on_end: Callable[[GrantEnd], None],
        lease_seconds: float = 60.0,
    ) -> Grant:
        """See `Engine.grant`; memory to read must lie in the arena, or `ValueError`."""
        if access == "read":
            if self._arena is None:
                raise ValueError("the engine has no arena to lend from; pass it one")
            self._arena.offset_of(region.memory)
        return super().grant(region, ranges, access, on_end, lease_seconds)

    def connect(self, address: str, timeout: float = 10.0) -> ShmLink:
        """See `Engine.connect`."""
        channel, _ = open_channel(address, timeout)
        channel.close()
        return ShmLink(self, address)

    def close(self) -> None:
        """See `Engine.close`."""
        with self._lock:
            first, self._closed = not self._closed, True
        if first:
            self._ending.set()
            # Wakes the thread that accepts, which then closes the socket.
            self._socket.shutdown(socket.SHUT_RDWR)
        super().close()
        with self._lock:
            serving = list(self._served.items())
        for _, lender in serving:
            lender.stop(TransferClosed("the engine was closed"))
        until = time.monotonic() + STOP_SECONDS
        for thread in [self._acceptor, *(thread for thread, _ in serving)]:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))

    def _accept(self) -> None:
        while not self._ending.is_set():
            try:
                sock, _ = self._socket.accept()
            except (OSError, MemoryError) as error:
                # Descriptors may be used up for a while: do not spin on that.
                if not self._ending.wait(_SHORT_SECONDS):
                    _log.warning("accept failed: %s", error)
                continue
            try:
                self._serve(sock)
            except (OSError, RuntimeError, MemoryError) as error:
                sock.close()
                _log.warning("nothing left to serve a peer with: %s", error)
                self._ending.wait(_SHORT_SECONDS)
        self._socket.close()
        if self._where[0] == "/":
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._where)

    def _serve(self, sock: socket.socket) -> None:
        channel = Channel(sock)
        lender = Lender(channel, self.table, self._arena, self.engine_id)

        def run() -> None:
            try:
                lender.serve()
            finally:
                channel.close()

        thread = threading.Thread(target=run, name="shm-lend", daemon=True)
        began = False
        try:
            began = self._begin(thread, lender)
        finally:
            if not began:
                channel.close()

    def _begin(self, thread: threading.Thread, lender: Lender) -> bool:
        with self._lock:
            if self._closed:
                return False
            thread.start()
            gone = [each for each in self._served if not each.is_alive()]
            for each in gone:
                del self._served[each]
            self._served[thread] = lender
            return True


def _listen(where: str, address: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    try:
        try:
            sock.bind(where)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or where[0] != "/" or _answers(where):
                raise
            # What a process that was killed has left.
            os.unlink(where)
            sock.bind(where)
        sock.listen(128)
    except OSError as error:
        sock.close()
        raise ConfigError(f"{address}: cannot listen there: {error}") from error
    return sock


def _answers(where: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(where) == 0
