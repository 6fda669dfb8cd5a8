"""What an exporter keeps of its exports: each is read once, then released once."""

from __future__ import annotations

import hmac
import itertools
import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from prefillshare.errors import ConfigError, TransferClosed, TransferRefused
from prefillshare.transfer.tickets.base import Ticket
from prefillshare.transfer.tickets.wire import (
    CAPABILITY_BYTES,
    TRANSFER_ID_BYTES,
    check_shape,
    flat,
)

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Lease:
    """One export, as kept by `ExportTable`; `readers` break off a fetch under way."""

    transfer_id: bytes
    capability: bytes
    blocks: list[memoryview]
    slice_bytes: int
    release: Callable[[], None]
    deadline: float
    readers: dict[int, Callable[[], None]] = field(default_factory=dict)
    live: bool = True
    released: bool = False


class ExportTable:
    """Exports by transfer id, with one thread that withdraws the expired ones.

    `clock` measures the lease (seconds), `ConfigError` if that is not above 0.
    """

    def __init__(
        self, lease_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if not 0 < lease_seconds <= threading.TIMEOUT_MAX:
            raise ConfigError(f"lease_seconds is {lease_seconds}; set one above 0")
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._changed = threading.Condition()
        self._leases: dict[bytes, Lease] = {}
        self._closed = False
        self._turns = itertools.count()
        self._reaper = threading.Thread(target=self._reap, name="kv-reap", daemon=True)
        self._reaper.start()

    def add(
        self,
        blocks: Sequence[memoryview],
        release: Callable[[], None],
        address: tuple[str, int],
        slice_bytes: int,
    ) -> Ticket:
        """Start a lease and return its ticket; see `Exporter.export` for errors."""
        views = flat(blocks)
        step = min(slice_bytes, size := views[0].nbytes)
        check_shape(len(views), size, step)
        with self._changed:
            if self._closed:
                raise TransferClosed("the exporter is closed; make a new one")
            lease = Lease(
                secrets.token_bytes(TRANSFER_ID_BYTES),
                secrets.token_bytes(CAPABILITY_BYTES),
                views,
                step,
                release,
                self._clock() + self._lease_seconds,
            )
            self._leases[lease.transfer_id] = lease
            self._changed.notify_all()
        names = lease.transfer_id.hex(), lease.capability.hex()
        return Ticket(*names, *address, len(views), size, step)

    def turn(self) -> int:
        """Number a fetch, at the time it arrives."""
        return next(self._turns)

    def enter(
        self, key: bytes, capability: bytes, turn: int, abort: Callable[[], None]
    ) -> Lease:
        """Begin to read; `abort` must end the reading early, and must not block.

        Every call is paired with `leave`. Raises `TransferRefused`, with one text for
        all reasons, so that a stranger cannot learn which transfers exist.
        """
        with self._changed:
            lease = self._leases.get(key)
            known = lease.capability if lease else bytes(CAPABILITY_BYTES)
            same = hmac.compare_digest(known, capability)
            if not (lease and same) or self._clock() >= lease.deadline:
                raise TransferRefused("transfer unknown or over, or wrong capability")
            # A retry may come before its lost predecessor is noticed, or served.
            if any(other > turn for other in lease.readers):
                raise TransferRefused("a later fetch of it is under way")
            for end in lease.readers.values():
                end()
            lease.readers[turn] = abort
            return lease

    def leave(self, lease: Lease, turn: int) -> None:
        """End the reading that `enter` began."""
        with self._changed:
            del lease.readers[turn]
        self._release_if_due(lease)

    def withdraw(self, lease: Lease) -> None:
        """End a lease, and its readings; the last to leave releases the blocks."""
        with self._changed:
            lease.live = False
            self._leases.pop(lease.transfer_id, None)
            for end in lease.readers.values():
                end()
        self._release_if_due(lease)

    def cancel(self, transfer_id: str) -> None:
        """Withdraw by hexadecimal id; an unknown id is ignored."""
        with self._changed:
            lease = self._leases.get(bytes.fromhex(transfer_id))
        if lease:
            self.withdraw(lease)

    def recheck(self) -> None:
        """Have the reaper read the clock again now, after a clock that was set."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Withdraw everything and end the reaper."""
        with self._changed:
            self._closed = True
            leases = list(self._leases.values())
            self._changed.notify_all()
        for lease in leases:
            self.withdraw(lease)
        if self._reaper is not threading.current_thread():
            self._reaper.join()

    def _release_if_due(self, lease: Lease) -> None:
        with self._changed:
            if lease.live or lease.readers or lease.released:
                return
            lease.released = True
            lease.blocks = []
        try:
            lease.release()
        except Exception:
            _log.exception("release of transfer %s failed", lease.transfer_id.hex())

    def _reap(self) -> None:
        while True:
            with self._changed:
                while not self._closed:
                    now, leases = self._clock(), self._leases.values()
                    if due := [lease for lease in leases if lease.deadline <= now]:
                        break
                    # All leases are equally long: the oldest is the next to expire.
                    until = next((lease.deadline - now for lease in leases), None)
                    self._changed.wait(until)
                else:
                    return
            for lease in due:
                self.withdraw(lease)
