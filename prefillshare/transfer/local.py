"""What transports share whose transfers run on a thread of this process each."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from prefillshare.errors import (
    TransferBroken,
    TransferClosed,
    TransferEnded,
    TransferError,
    TransferIdentityError,
    TransferIntegrityError,
    TransferTimeout,
)
from prefillshare.transfer.base import (
    ID_BYTES,
    Access,
    Batch,
    Grant,
    GrantEnd,
    Outcome,
    Ranges,
    Region,
    StreamInfo,
)
from prefillshare.transfer.beginning import Beginning
from prefillshare.transfer.fed import FedTransfer
from prefillshare.transfer.grants import GrantTable, Loan, still_used
from prefillshare.transfer.pending import STOP_SECONDS
from prefillshare.transfer.ranges import Pieces, as_ranges, check_disjoint, check_within

_log = logging.getLogger(__name__)
R = TypeVar("R", bound=Region)
Mover = Callable[[FedTransfer], None]


def check_identity(grant: Grant, there: str) -> None:
    """Raise `TransferIdentityError` unless the engine `there` made the grant."""
    if there != grant.engine:
        raise TransferIdentityError(
            f"{grant.address}: engine {there} listens, the grant is of "
            f"{grant.engine}; ask for a new grant"
        )


@contextmanager
def lent(table: GrantTable, transfer: FedTransfer) -> Iterator[Loan]:
    """A transfer's stay in a grant of this process; it is done if the block ends well.

    Raises `TransferRefused`, and `TransferEnded` if the grant was withdrawn.
    """
    grant, end = transfer.grant, None
    key, secret = bytes.fromhex(grant.grant_id), bytes.fromhex(grant.capability)
    loan = table.enter(key, secret, grant.access, transfer.stop)
    try:
        if not table.first(loan, transfer.remaining()):
            raise TransferTimeout("an earlier transfer of the grant does not end")
        yield loan
        end = GrantEnd(Outcome.DONE, transfer.note, transfer.progress[0])
    finally:
        accepted = table.leave(loan, end)
    if not accepted:
        raise TransferEnded("the peer withdrew the grant at the last moment")


class LocalEngine(ABC):
    """An `Engine` without its `connect`: regions, grants, and the threads that move."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.engine_id = secrets.token_hex(ID_BYTES)
        self.table = GrantTable(clock)
        self._lock = threading.Lock()
        self._regions: dict[int, Region] = {}
        self._last_number = 0
        self._moving: dict[FedTransfer, threading.Thread] = {}
        self._closed = False

    @property
    @abstractmethod
    def address(self) -> str:
        """See `Engine.address`."""

    def register(self, buffer: memoryview) -> Region:
        """See `Engine.register`."""
        if buffer.readonly or not buffer.contiguous or not buffer.nbytes:
            raise ValueError("a region must be contiguous, writable and not empty")
        memory = buffer.cast("B")
        return self._keep(lambda number: Region(number, memory))

    def _keep(self, make: Callable[[int], R]) -> R:
        with self._lock:
            if self._closed:
                raise TransferClosed("the engine is closed; make a new one")
            self._last_number += 1
            region = make(self._last_number)
            self._regions[region.number] = region
            return region

    def check_region(self, region: Region) -> None:
        """Raise `ValueError` unless the region is registered here."""
        if self._regions.get(region.number) is not region:
            raise ValueError(f"region {region.number} is not registered here")

    def deregister(self, region: Region) -> None:
        """See `Engine.deregister`; transfers from and to it are cancelled first."""
        self.check_region(region)
        del self._regions[region.number]
        free = self.table.revoke_region(region.number, STOP_SECONDS)
        why = TransferClosed("the region was deregistered on this side")
        if not self.stop(lambda transfer: transfer.region is region, why) or not free:
            self._regions[region.number] = region
            raise still_used(region)

    def grant(
        self,
        region: Region,
        ranges: Ranges,
        access: Access,
        on_end: Callable[[GrantEnd], None],
        lease_seconds: float = 60.0,
    ) -> Grant:
        """See `Engine.grant`."""
        self.check_region(region)
        found = as_ranges(ranges)
        if access == "write":
            check_disjoint(found)
        return self.table.add(
            self.pieces(region, found),
            access,
            self.address,
            self.engine_id,
            on_end,
            lease_seconds,
            region.number,
        )

    def pieces(self, region: Region, ranges: Ranges) -> Pieces:
        """What is lent of a region; `ValueError` for ranges out of bounds."""
        check_within(ranges, region.memory.nbytes, "the region")
        return Pieces(region.memory, ranges)

    def revoke(self, grant_id: str) -> None:
        """See `Engine.revoke`."""
        self.table.revoke(grant_id)

    def start(self, transfer: FedTransfer, move: Mover) -> None:
        """Run `move` on a thread, and settle the transfer with how it ends.

        Raises `TransferClosed`, and `TransferBroken` if there is no thread for it.
        """
        thread = threading.Thread(
            target=self._run, args=(transfer, move), name="transfer", daemon=True
        )
        with self._lock:
            if self._closed:
                raise TransferClosed("the engine is closed; make a new one")
            for each, old in list(self._moving.items()):
                if not old.is_alive():
                    del self._moving[each]
            try:
                thread.start()
            except RuntimeError as error:
                raise TransferBroken(
                    f"no thread for a transfer ({error}); allow more"
                ) from error
            self._moving[transfer] = thread

    def _run(self, transfer: FedTransfer, move: Mover) -> None:
        try:
            move(transfer)
        except TransferError as error:
            transfer.settle(error)
        except ValueError as error:
            # The batch was within the grant as it was told, not as it is.
            transfer.settle(TransferIntegrityError(str(error)))
        except OSError as error:
            transfer.settle(TransferBroken(f"{transfer.grant.address}: {error}"))
        except BaseException as error:
            _log.exception("a transfer failed in a way that is a defect")
            transfer.settle(error)
        else:
            transfer.settle()

    def stop(self, which: Callable[[FedTransfer], bool], why: TransferError) -> bool:
        """Stop transfers and wait for their threads, other than this one.

        Whether they are over.
        """
        with self._lock:
            ending = [pair for pair in self._moving.items() if which(pair[0])]
        for transfer, _ in ending:
            transfer.stop(why)
        until = time.monotonic() + STOP_SECONDS
        for _, thread in ending:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))
        return all(transfer.done for transfer, _ in ending)

    def close(self) -> None:
        """See `Engine.close`."""
        with self._lock:
            self._closed = True
        self.table.close()
        self.stop(lambda _: True, TransferClosed("the engine was closed on this side"))
        self.table.join(STOP_SECONDS)


class LocalLink(Beginning[FedTransfer]):
    """A `Link` of a `LocalEngine`."""

    def __init__(self, engine: LocalEngine, address: str) -> None:
        self.engine = engine
        self.address = address
        # Held while a transfer starts: `close` finds it, or it does not start.
        self._starting = threading.Lock()
        self._closed = False
        self._mine: set[FedTransfer] = set()

    @property
    def warm(self) -> bool:
        """See `Link.warm`: each transfer has a thread of its own, which may wait."""
        return True

    def streams(self) -> list[StreamInfo]:
        """See `Link.streams`."""
        return []

    @abstractmethod
    def mover(self, grant: Grant) -> Mover:
        """What moves the next transfer, called once, on a thread of its own.

        Raises `TransferBroken` and `TransferIdentityError` as `Link.read`.
        """

    def unused(self, move: Mover) -> None:
        """Close what `mover` has opened for a transfer that does not start."""

    def make(
        self, region: Region, grant: Grant, timeout: float, note: bytes
    ) -> FedTransfer:
        """A transfer of the transport's kind."""
        return FedTransfer(region, grant, timeout, note)

    def check(self, grant: Grant) -> None:
        """Raise what `Link.read` says of the link and the grant."""
        if self._closed:
            raise TransferClosed("the link is closed; connect again")
        if grant.address != self.address:
            raise ValueError(f"grant of {grant.address}, link to {self.address}")

    def begin(
        self,
        access: Access,
        grant: Grant,
        region: Region,
        batch: Batch | None,
        timeout: float,
        note: bytes,
    ) -> FedTransfer:
        """See `Beginning.begin`."""
        self.engine.check_region(region)
        transfer = self.make(region, grant, timeout, note)
        if batch is not None:
            transfer.add(batch)
            transfer.finish()
        self.check(grant)
        move = self.mover(grant)
        try:
            self._start(transfer, move)
        except BaseException as error:
            self.unused(move)
            transfer.settle(error)
            raise
        return transfer

    def _start(self, transfer: FedTransfer, move: Mover) -> None:
        with self._starting:
            self.check(transfer.grant)
            self.engine.start(transfer, move)
            self._mine = {each for each in self._mine if not each.done} | {transfer}

    def close(self) -> None:
        """See `Link.close`."""
        with self._starting:
            self._closed = True
            mine = self._mine
        why = TransferClosed("the link was closed on this side")
        self.engine.stop(lambda transfer: transfer in mine, why)
