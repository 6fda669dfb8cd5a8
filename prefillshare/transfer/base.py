"""The contract of a KV transfer, and the bookkeeping that implementations share."""

from __future__ import annotations

import hmac
import itertools
import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Protocol

from prefillshare.errors import ConfigError, TransferClosed, TransferRefused
from prefillshare.transfer.wire import (
    CAPABILITY_BYTES,
    TRANSFER_ID_BYTES,
    check_shape,
    flat,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ticket:
    """What a fetcher needs to pull one export; whoever holds it may fetch.

    `transfer_id` and `capability` are hexadecimal (16 and 32 bytes), sizes are in
    bytes. A block is cut into slices of `slice_bytes`, its last may be shorter.
    Raises `ValueError` for a malformed field or a size beyond the bounds.
    """

    transfer_id: str
    capability: str = field(repr=False)
    host: str
    port: int
    blocks: int
    bytes_per_block: int
    slice_bytes: int

    def __post_init__(self) -> None:
        for item in fields(self):
            if type(getattr(self, item.name)).__name__ != item.type:
                raise ValueError(f"ticket: {item.name} must be of type {item.type}")
        sizes = {"transfer_id": TRANSFER_ID_BYTES, "capability": CAPABILITY_BYTES}
        for name, size in sizes.items():
            if not re.fullmatch(f"[0-9a-f]{{{2 * size}}}", getattr(self, name)):
                raise ValueError(f"ticket: {name} must be {2 * size} hex digits")
        if not 1 <= len(self.host) <= 255:
            raise ValueError("ticket: host must have 1..255 characters")
        if not 1 <= self.port <= 65535:
            raise ValueError(f"ticket: port is {self.port}, must be within 1..65535")
        check_shape(self.blocks, self.bytes_per_block, self.slice_bytes)

    @property
    def total_bytes(self) -> int:
        """Payload of the whole transfer in bytes."""
        return self.blocks * self.bytes_per_block

    def to_dict(self) -> dict[str, str | int]:
        """Return the fields as JSON-ready values, the secret capability included."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, object]) -> Ticket:
        """Build a ticket from untrusted values; `ValueError` names what is wrong."""
        if wrong := {item.name for item in fields(cls)} ^ set(raw):
            raise ValueError(f"ticket: missing or unknown keys: {str(wrong)[:200]}")
        return cls(**raw)  # type: ignore[arg-type]

    def check_into(self, into: Sequence[memoryview]) -> list[memoryview]:
        """Return the targets as flat bytes; `ValueError` unless they fit exactly."""
        views = flat(into)
        if (len(views), views[0].nbytes) != (self.blocks, self.bytes_per_block):
            expected = f"{self.blocks} of {self.bytes_per_block} bytes"
            raise ValueError(f"{len(views)} targets do not fit, expected {expected}")
        if any(view.readonly for view in views):
            raise ValueError("a target is read-only")
        return views


@dataclass(frozen=True)
class TransferStats:
    """What one fetch moved: payload `bytes`, `blocks`, and wall time in seconds."""

    bytes: int
    blocks: int
    seconds: float

    @property
    def gbps(self) -> float:
        """Payload rate in gigabits (1e9 bits) per second; 0 if no time passed."""
        return self.bytes * 8 / self.seconds / 1e9 if self.seconds > 0 else 0.0


class Exporter(Protocol):
    """The prefill side: lends blocks until one fetch has completed.

    `release` is called exactly once per export: when the fetcher has acknowledged,
    on `cancel`, when the lease expires or on `close`, and never while the blocks are
    still being read: a fetch under way is broken off first. Until then the blocks
    must not change. `release` may run on a thread of the exporter; what it raises is
    logged. A fetch that fails midway leaves the export as it was, for another try. A
    new fetch of an export ends an earlier one that is still under way.
    """

    @property
    def bytes_sent(self) -> int:
        """Payload bytes sent so far, failed fetches included."""

    def export(
        self, blocks: Sequence[memoryview], release: Callable[[], None]
    ) -> Ticket:
        """Lend the blocks, all of one size, and return the ticket to fetch them.

        Raises `ValueError` for blocks that cannot be sent and `TransferClosed` after
        `close`; `release` is then not called.
        """

    def cancel(self, transfer_id: str) -> None:
        """Withdraw an export, a no-op if it is gone; `ValueError` if not hex."""

    def close(self) -> None:
        """Withdraw all exports and end all threads and sockets. May be repeated."""


class Importer(Protocol):
    """The decode side: pulls the blocks of a ticket."""

    def fetch(
        self, ticket: Ticket, into: Sequence[memoryview], timeout: float
    ) -> TransferStats:
        """Fill `into`, one view per block, within `timeout` seconds over all.

        On return every byte is verified. After an error `into` holds anything, and
        the fetch may be repeated, except after `TransferRefused`.

        Raises:
            ValueError: `into` does not fit the ticket, or `timeout` is not positive.
            TransferRefused: unknown, already served or expired, or wrong capability.
            TransferTimeout: the deadline passed.
            TransferBroken: no connection, or it ended midway.
            TransferIntegrityError: bytes or frames that were not sent like that.
        """


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
