"""KV transfer over TCP: threads serve exports, slices go straight between views."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from xxhash import xxh3_64_intdigest

from prefillshare.errors import (
    ConfigError,
    TransferBroken,
    TransferError,
    TransferIntegrityError,
    TransferRefused,
    TransferTimeout,
)
from prefillshare.transfer.tickets.base import Ticket, TransferStats
from prefillshare.transfer.tickets.leases import ExportTable, Lease
from prefillshare.transfer.tickets.sockets import (
    receiver,
    require_loopback,
    send_all,
    set_timeout,
    shut,
)
from prefillshare.transfer.tickets.wire import (
    DEFAULT_SLICE_BYTES,
    Done,
    ErrorCode,
    Failure,
    Grant,
    Hello,
    Slice,
    SliceLedger,
    encode,
    fill,
    read_frame,
    spans,
)

HELLO_SECONDS = 5.0
# Verified bytes are a success even if the exporter is slow to take note.
CLOSE_SECONDS = 1.0
_PARTS_PER_SEND = 64

_log = logging.getLogger(__name__)


class TcpExporter:
    """An `Exporter` that serves from a listening loopback socket.

    `port` 0 takes a free one; an export lives for `lease_seconds`, a fetch under way
    included. Connections beyond `max_connections` wait in the socket's backlog.
    Raises `ConfigError` if the host is not loopback or cannot be bound.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        lease_seconds: float = 60.0,
        *,
        slice_bytes: int = DEFAULT_SLICE_BYTES,
        max_connections: int = 8,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        require_loopback(host)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._listener = socket.create_server((host, port), family=family)
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"cannot listen on {host}:{port} ({error}); choose another port"
            ) from error
        try:
            self._table = ExportTable(lease_seconds, clock)
        except ConfigError:
            self._listener.close()
            raise
        self._address: tuple[str, int] = (host, self._listener.getsockname()[1])
        self._slice_bytes = slice_bytes
        self._slots = threading.Semaphore(max_connections)
        self._lock = threading.Lock()
        self._connections: dict[threading.Thread, socket.socket] = {}
        self._closed = threading.Event()
        self._bytes_sent = 0
        self._acceptor = threading.Thread(target=self._accept, name="kv-accept")
        self._acceptor.daemon = True
        self._acceptor.start()

    @property
    def bytes_sent(self) -> int:
        """Payload bytes sent so far, failed fetches included."""
        with self._lock:
            return self._bytes_sent

    def export(
        self,
        blocks: Sequence[memoryview],
        release: Callable[[], None],
        slice_bytes: int | None = None,
    ) -> Ticket:
        """See `Exporter.export`."""
        size = slice_bytes or self._slice_bytes
        return self._table.add(blocks, release, self._address, size)

    def cancel(self, transfer_id: str) -> None:
        """See `Exporter.cancel`."""
        self._table.cancel(transfer_id)

    def recheck_leases(self) -> None:
        """Look for expired leases now, after an injected clock was set."""
        self._table.recheck()

    def close(self) -> None:
        """See `Exporter.close`."""
        with self._lock:
            self._closed.set()
            connections = dict(self._connections)
        shut(self._listener)
        for sock in connections.values():
            shut(sock)
        self._table.close()
        for thread in (self._acceptor, *connections):
            if thread is not threading.current_thread():
                thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            self._slots.acquire()
            try:
                sock, _ = self._listener.accept()
            except OSError as error:
                self._slots.release()
                # Descriptors may be used up for a while: do not spin on that.
                if self._closed.wait(0.05):
                    return
                _log.warning("accept failed: %s", error)
                continue
            thread = threading.Thread(
                target=self._run,
                args=(sock, self._table.turn()),
                daemon=True,
            )
            with self._lock:
                if self._closed.is_set():
                    sock.close()
                    return
                self._connections[thread] = sock
                thread.start()

    def _run(self, sock: socket.socket, turn: int) -> None:
        try:
            with contextlib.suppress(OSError, TransferBroken):
                self._serve(sock, turn)
        finally:
            with self._lock:
                sock.close()
                self._connections.pop(threading.current_thread(), None)
            self._slots.release()

    def _serve(self, sock: socket.socket, turn: int) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            hello = read_frame(receiver(sock, time.monotonic() + HELLO_SECONDS))
            if not isinstance(hello, Hello):
                raise TransferIntegrityError(f"expected HELLO, got {hello}")
            key, abort = hello.transfer_id, partial(shut, sock)
            lease = self._table.enter(key, hello.capability, turn, abort)
        except (TransferRefused, TransferIntegrityError) as error:
            refused = isinstance(error, TransferRefused)
            code = ErrorCode.REFUSED if refused else ErrorCode.PROTOCOL
            return sock.sendall(encode(Failure(code, str(error))))
        try:
            # No timeout from here on: the lease bounds it, by way of `abort`.
            sock.settimeout(None)
            self._send(sock, lease)
            done = isinstance(read_frame(sock.recv_into), Done)
        except TransferIntegrityError as error:
            _log.warning("transfer %s: %s", key.hex(), error)
            done = False
        finally:
            self._table.leave(lease, turn)
        if done:
            self._table.withdraw(lease)

    def _send(self, sock: socket.socket, lease: Lease) -> None:
        # A withdrawal empties `lease.blocks` only once every reader has left.
        blocks, step = lease.blocks, lease.slice_bytes
        size = blocks[0].nbytes
        parts: list[memoryview | bytes] = [encode(Grant(len(blocks), size, step))]
        payload = 0
        for block, start, stop in spans(len(blocks), size, step):
            data = blocks[block][start:stop]
            head = Slice(block, start, stop - start, xxh3_64_intdigest(data))
            parts += (encode(head), data)
            payload += stop - start
            if len(parts) >= _PARTS_PER_SEND:
                send_all(sock, parts)
                self._count(payload)
                parts, payload = [], 0
        # Before DONE, so that a fetch that has returned is counted.
        send_all(sock, parts)
        self._count(payload)
        sock.sendall(encode(Done()))

    def _count(self, payload: int) -> None:
        with self._lock:
            self._bytes_sent += payload


class TcpImporter:
    """An `Importer` over TCP; one connection per fetch, safe to share by threads."""

    def fetch(
        self, ticket: Ticket, into: Sequence[memoryview], timeout: float
    ) -> TransferStats:
        """See `Importer.fetch`."""
        views = ticket.check_into(into)
        if not timeout > 0:
            raise ValueError(f"timeout is {timeout} seconds, it must be positive")
        begin = time.monotonic()
        pull = _Pull(ticket, views, begin + timeout)
        try:
            with socket.create_connection((ticket.host, ticket.port), timeout) as sock:
                pull.run(sock)
                seconds = time.monotonic() - begin
                pull.wait_closed(sock)
        except TimeoutError as error:
            raise TransferTimeout(f"{pull} after {timeout} s") from error
        except (OSError, UnicodeError, TransferBroken) as error:
            raise TransferBroken(f"{pull}: {error}") from error
        except TransferError as error:
            raise type(error)(f"{pull}: {error}") from error
        return TransferStats(ticket.total_bytes, ticket.blocks, seconds)


@dataclass
class _Pull:
    _ticket: Ticket
    _views: list[memoryview]
    _deadline: float
    _received: int = 0

    def __str__(self) -> str:
        ticket = self._ticket
        progress = f"{self._received} of {ticket.total_bytes} bytes received"
        return f"{ticket.host}:{ticket.port}: {progress}"

    def run(self, sock: socket.socket) -> None:
        ticket = self._ticket
        recv_into = receiver(sock, self._deadline)
        secret = bytes.fromhex(ticket.capability)
        set_timeout(sock, self._deadline)
        sock.sendall(encode(Hello(bytes.fromhex(ticket.transfer_id), secret)))
        frame = read_frame(recv_into)
        if isinstance(frame, Failure):
            raise TransferRefused(f"{frame.code.name}: {frame.text!r}")
        grant = Grant(ticket.blocks, ticket.bytes_per_block, ticket.slice_bytes)
        if frame != grant:
            raise TransferIntegrityError(f"expected {grant}, got {type(frame)}")
        ledger = SliceLedger(grant)
        while isinstance(frame := read_frame(recv_into), Slice):
            ledger.enter(frame)
            stop = frame.offset + frame.length
            target = self._views[frame.block][frame.offset : stop]
            fill(recv_into, target)
            if xxh3_64_intdigest(target) != frame.checksum:
                raise TransferIntegrityError(f"checksum mismatch in {frame}")
            self._received += frame.length
        if not isinstance(frame, Done):
            raise TransferIntegrityError(f"expected SLICE or DONE, got {type(frame)}")
        ledger.finish()
        set_timeout(sock, self._deadline)
        sock.sendall(encode(Done()))

    def wait_closed(self, sock: socket.socket) -> None:
        """Wait until the exporter has taken note, so that its release has run."""
        patience = min(self._deadline, time.monotonic() + CLOSE_SECONDS)
        with contextlib.suppress(OSError):
            set_timeout(sock, patience)
            sock.recv(1)
