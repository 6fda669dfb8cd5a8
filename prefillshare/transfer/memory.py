"""The transfer engine within one process, with faults on demand."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum

from xxhash import xxh3_64_intdigest

from prefillshare.errors import (
    TransferBroken,
    TransferIntegrityError,
)
from prefillshare.transfer.base import Grant
from prefillshare.transfer.fed import FedTransfer
from prefillshare.transfer.grants import Loan
from prefillshare.transfer.local import (
    LocalEngine,
    LocalLink,
    Mover,
    check_identity,
    lent,
)
from prefillshare.transfer.rows import cut, placed

DEFAULT_SLICE_BYTES = 1 << 20


class Fault(Enum):
    """What goes wrong in one transfer: a flipped bit, an end half-way, or a stall."""

    CORRUPT = "corrupt"
    BREAK = "break"
    TIMEOUT = "timeout"


class MemoryNetwork:
    """Joins engines of one process.

    Each transfer, in the order of `read` and `write`, takes the next of `faults`; with
    `None`, or after the last, it works. A slice, at most `slice_bytes` of one range,
    is what a checksum covers. `clock` measures leases, in seconds.
    """

    def __init__(
        self,
        *,
        slice_bytes: int = DEFAULT_SLICE_BYTES,
        faults: Iterable[Fault | None] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.slice_bytes = slice_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._faults = deque(faults)
        self._engines: dict[str, MemoryEngine] = {}
        self._last = 0

    def engine(self) -> MemoryEngine:
        """Return a new engine; the caller closes it."""
        with self._lock:
            self._last += 1
            made = MemoryEngine(self, f"memory://{self._last}", self._clock)
            self._engines[made.address] = made
        return made

    def script(self, *faults: Fault | None) -> None:
        """Append faults for the transfers to come."""
        with self._lock:
            self._faults.extend(faults)

    def next_fault(self) -> Fault | None:
        """Take the next fault."""
        with self._lock:
            return self._faults.popleft() if self._faults else None

    def find(self, address: str) -> MemoryEngine:
        """The engine at an address, or `TransferBroken`."""
        if not address.startswith("memory://"):
            raise ValueError(f"address {address!r} is not like memory://1")
        with self._lock:
            if found := self._engines.get(address):
                return found
        raise TransferBroken(f"{address}: no engine is there, or it was closed")

    def drop(self, address: str) -> None:
        """Forget an engine."""
        with self._lock:
            self._engines.pop(address, None)


class MemoryEngine(LocalEngine):
    """An `Engine` of a `MemoryNetwork`."""

    def __init__(
        self, network: MemoryNetwork, address: str, clock: Callable[[], float]
    ) -> None:
        super().__init__(clock)
        self.network = network
        self._address = address

    @property
    def address(self) -> str:
        """See `Engine.address`."""
        return self._address

    def connect(self, address: str, timeout: float = 10.0) -> MemoryLink:
        """See `Engine.connect`."""
        self.network.find(address)
        return MemoryLink(self, address)

    def close(self) -> None:
        """See `Engine.close`."""
        self.network.drop(self.address)
        super().close()


class MemoryLink(LocalLink):
    """A `Link` of a `MemoryEngine`."""

    engine: MemoryEngine

    def mover(self, grant: Grant) -> Mover:
        """See `LocalLink.mover`."""
        network = self.engine.network
        peer = network.find(self.address)
        check_identity(grant, peer.engine_id)
        fault = network.next_fault()
        return lambda transfer: _move(transfer, peer, network.slice_bytes, fault)


def _move(
    transfer: FedTransfer, peer: LocalEngine, slice_bytes: int, fault: Fault | None
) -> None:
    with lent(peer.table, transfer) as loan:
        if fault is Fault.TIMEOUT:
            transfer.stall()
        for batch in transfer.batches():
            for row in cut(placed(batch, loan.pieces), slice_bytes).tolist():
                transfer.check()
                moved, added = transfer.progress
                if fault is Fault.BREAK and 2 * moved >= added:
                    raise TransferBroken(f"scripted: {moved} of {added} bytes moved")
                _copy(transfer, loan, row, fault if moved == 0 else None)


def _copy(
    transfer: FedTransfer, loan: Loan, row: list[int], fault: Fault | None
) -> None:
    near, far, length = row
    source = loan.pieces.memory[far : far + length]
    target = transfer.region.memory[near : near + length]
    if transfer.grant.access == "write":
        source, target = target, source
    checksum = xxh3_64_intdigest(source)
    target[:] = source
    if fault is Fault.CORRUPT:
        target[0] ^= 1
    if xxh3_64_intdigest(target) != checksum:
        raise TransferIntegrityError(
            f"{length} bytes at {near} of the region, {far} of the peer's, do not have "
            "the checksum that they left with"
        )
    transfer.count(length)
