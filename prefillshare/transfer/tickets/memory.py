"""KV transfer within one process, with faults on demand."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from enum import Enum

from xxhash import xxh3_64_intdigest

from prefillshare.errors import (
    TransferBroken,
    TransferIntegrityError,
    TransferTimeout,
)
from prefillshare.transfer.tickets.base import Ticket, TransferStats
from prefillshare.transfer.tickets.leases import ExportTable
from prefillshare.transfer.tickets.wire import DEFAULT_SLICE_BYTES, spans

_HOST = "memory"


class Fault(Enum):
    """What goes wrong in one fetch."""

    CORRUPT = "corrupt"
    BREAK = "break"
    TIMEOUT = "timeout"


class MemoryNetwork:
    """Joins exporters and importers of one process.

    Each fetch takes the next of `faults`; with `None`, or after the last, it works.
    `lease_seconds` is measured by `clock` (seconds); raises `ConfigError` from
    `exporter()` if it is not positive.
    """

    def __init__(
        self,
        lease_seconds: float = 60.0,
        *,
        slice_bytes: int = DEFAULT_SLICE_BYTES,
        faults: Iterable[Fault | None] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lease_seconds = lease_seconds
        self._slice_bytes = slice_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._faults = deque(faults)
        self._exporters: dict[int, MemoryExporter] = {}
        self._last_port = 0

    def exporter(self) -> MemoryExporter:
        """Return a new exporter; the caller closes it."""
        table = ExportTable(self._lease_seconds, self._clock)
        with self._lock:
            self._last_port += 1
            port = self._last_port
            made = MemoryExporter(self, port, table, self._slice_bytes)
            self._exporters[port] = made
        return made

    def importer(self) -> MemoryImporter:
        """Return an importer that reaches every open exporter of this network."""
        return MemoryImporter(self)

    def script(self, *faults: Fault | None) -> None:
        """Append faults for the fetches to come."""
        with self._lock:
            self._faults.extend(faults)

    def _next_fault(self) -> Fault | None:
        with self._lock:
            return self._faults.popleft() if self._faults else None

    def _find(self, ticket: Ticket) -> MemoryExporter | None:
        with self._lock:
            return self._exporters.get(ticket.port) if ticket.host == _HOST else None

    def _drop(self, port: int) -> None:
        with self._lock:
            self._exporters.pop(port, None)


class MemoryExporter:
    """An `Exporter` of a `MemoryNetwork`."""

    def __init__(
        self, network: MemoryNetwork, port: int, table: ExportTable, slice_bytes: int
    ) -> None:
        self._network = network
        self._port = port
        self._slice_bytes = slice_bytes
        self._lock = threading.Lock()
        self._bytes_sent = 0
        self.table = table

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
        return self.table.add(blocks, release, (_HOST, self._port), size)

    def cancel(self, transfer_id: str) -> None:
        """See `Exporter.cancel`."""
        self.table.cancel(transfer_id)

    def recheck_leases(self) -> None:
        """Look for expired leases now, after an injected clock was set."""
        self.table.recheck()

    def close(self) -> None:
        """See `Exporter.close`."""
        self._network._drop(self._port)
        self.table.close()

    def count(self, payload: int) -> None:
        """Add bytes that an importer has taken."""
        with self._lock:
            self._bytes_sent += payload


class MemoryImporter:
    """An `Importer` of a `MemoryNetwork`."""

    def __init__(self, network: MemoryNetwork) -> None:
        self._network = network

    def fetch(
        self, ticket: Ticket, into: Sequence[memoryview], timeout: float
    ) -> TransferStats:
        """See `Importer.fetch`."""
        views = ticket.check_into(into)
        if not timeout > 0:
            raise ValueError(f"timeout is {timeout} seconds, it must be positive")
        begin = time.monotonic()
        fault = self._network._next_fault()
        exporter = self._network._find(ticket)
        if exporter is None:
            raise TransferBroken(f"{ticket.host}:{ticket.port}: nothing listens there")
        if fault is Fault.TIMEOUT:
            raise TransferTimeout(f"scripted: nothing arrived within {timeout} s")
        aborted, turn = threading.Event(), exporter.table.turn()
        lease = exporter.table.enter(
            bytes.fromhex(ticket.transfer_id),
            bytes.fromhex(ticket.capability),
            turn,
            aborted.set,
        )
        try:
            self._copy(exporter, lease.blocks, views, ticket, aborted, fault)
        finally:
            exporter.table.leave(lease, turn)
        seconds = time.monotonic() - begin
        if seconds > timeout:
            raise TransferTimeout(f"{seconds:.3f} s passed, {timeout} s were allowed")
        exporter.table.withdraw(lease)
        return TransferStats(ticket.total_bytes, ticket.blocks, seconds)

    def _copy(
        self,
        exporter: MemoryExporter,
        source: list[memoryview],
        views: list[memoryview],
        ticket: Ticket,
        aborted: threading.Event,
        fault: Fault | None,
    ) -> None:
        moved, total = 0, ticket.total_bytes
        shape = ticket.blocks, ticket.bytes_per_block, ticket.slice_bytes
        for block, start, stop in spans(*shape):
            if aborted.is_set() or (fault is Fault.BREAK and 2 * moved >= total):
                raise TransferBroken(f"{moved} of {total} bytes received")
            data, target = source[block][start:stop], views[block][start:stop]
            checksum = xxh3_64_intdigest(data)
            target[:] = data
            if fault is Fault.CORRUPT:
                target[0] ^= 1
            exporter.count(stop - start)
            if xxh3_64_intdigest(target) != checksum:
                raise TransferIntegrityError(
                    f"checksum mismatch in block {block} at byte {start}"
                )
            moved += stop - start
