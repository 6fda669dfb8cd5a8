"""The contract of a KV transfer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Protocol

from prefillshare.transfer.tickets.wire import (
    CAPABILITY_BYTES,
    TRANSFER_ID_BYTES,
    check_shape,
    flat,
)


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
        self,
        blocks: Sequence[memoryview],
        release: Callable[[], None],
        slice_bytes: int | None = None,
    ) -> Ticket:
        """Lend the blocks, all of one size, and return the ticket to fetch them.

        They are verified in slices of `slice_bytes`, the exporter's own by default.

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
