"""The contract of the transfer engine: grants, batches, transfers.

An engine lends pieces of its memory to one peer, for one transfer, as a *grant*.
Whoever holds the grant moves a *batch* of (local offset, remote offset, length) between
its own memory and the granted pieces: it reads, or it writes. Remote offsets count
within the grant, as if its pieces lay one behind the other, so that nothing outside of
it can be named. A transfer is over when all of its bytes are in place and verified.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import Enum
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

ID_BYTES = 16
CAPABILITY_BYTES = 32
MAX_GRANT_BYTES = 1 << 44
MAX_NOTE_BYTES = 1 << 12
MAX_ADDRESS = 300

Access = Literal["read", "write"]
# int64 [n, 2]: (offset, length) in bytes; int64 [n, 3]: (local, remote, length).
Ranges = NDArray[np.int64]
Batch = NDArray[np.int64]


@dataclass(frozen=True)
class Grant:
    """What a peer needs to move bytes from or to one loan of memory.

    `engine` names the lending process, `grant_id` the loan (hexadecimal, 16 bytes
    each); `capability` is the secret that goes with it (hexadecimal, 32 bytes);
    `address` says where the engine listens, `size` how many bytes are lent. Raises
    `ValueError` for a malformed field.
    """

    address: str
    engine: str
    grant_id: str
    capability: str = field(repr=False)
    access: Access
    size: int

    def __post_init__(self) -> None:
        sizes = {"engine": ID_BYTES, "grant_id": ID_BYTES}
        for name, size in {**sizes, "capability": CAPABILITY_BYTES}.items():
            value = getattr(self, name)
            if not (
                isinstance(value, str)
                and re.fullmatch(f"[0-9a-f]{{{2 * size}}}", value)
            ):
                raise ValueError(f"grant: {name} must be {2 * size} hex digits")
        if not isinstance(self.address, str) or not (
            1 <= len(self.address) <= MAX_ADDRESS
        ):
            raise ValueError(f"grant: address must have 1..{MAX_ADDRESS} characters")
        if self.access not in ("read", "write"):
            raise ValueError("grant: access must be 'read' or 'write'")
        if type(self.size) is not int or not 1 <= self.size <= MAX_GRANT_BYTES:
            raise ValueError(f"grant: size must be within 1..{MAX_GRANT_BYTES} bytes")

    def to_dict(self) -> dict[str, str | int]:
        """Return the fields as JSON-ready values, the secret capability included."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, object]) -> Grant:
        """Build a grant from untrusted values; `ValueError` names what is wrong."""
        if wrong := {item.name for item in fields(cls)} ^ set(raw):
            raise ValueError(f"grant: missing or unknown keys: {str(wrong)[:200]}")
        return cls(**raw)  # type: ignore[arg-type]


class Outcome(Enum):
    """How a grant ended."""

    DONE = "done"
    REVOKED = "revoked"
    EXPIRED = "expired"
    CLOSED = "closed"


@dataclass(frozen=True)
class GrantEnd:
    """What `on_end` is told: with DONE, the peer's `note` and the `bytes` it moved."""

    outcome: Outcome
    note: bytes = b""
    bytes: int = 0


@dataclass(frozen=True)
class TransferStats:
    """What one transfer moved: payload `bytes`, `ranges`, and wall time in seconds.

    `sealed` says that it was encrypted on the way.
    """

    bytes: int
    ranges: int
    seconds: float
    sealed: bool = False

    @property
    def gbps(self) -> float:
        """Payload rate in gigabits (1e9 bits) per second; 0 if no time passed."""
        return self.bytes * 8 / self.seconds / 1e9 if self.seconds > 0 else 0.0


@dataclass(frozen=True, eq=False)
class Region:
    """Memory that an engine may move: `memory` as flat bytes, under a number."""

    number: int
    memory: memoryview = field(repr=False)


class Transfer(Protocol):
    """One batch under way; it may be fed while it runs.

    After an error, and after `cancel`, nothing touches the local memory any more, and
    the grant may be used again, unless it was refused; what was written to holds
    anything.
    """

    @property
    def progress(self) -> tuple[int, int]:
        """Bytes that have left or arrived on this side, and bytes added so far."""

    @property
    def done(self) -> bool:
        """Whether it is over, well or not."""

    def add(self, batch: Batch) -> None:
        """Feed more of the batch.

        Raises `ValueError` for ranges out of bounds, or whose targets overlap, and
        `TransferError` if the transfer is over.
        """

    def finish(self) -> None:
        """Say that nothing more will be added. May be repeated."""

    def wait(self, timeout: float | None = None) -> TransferStats:
        """Block until it is over, at most `timeout` seconds; then it is cancelled.

        Raises:
            TransferTimeout: the deadline passed.
            TransferRefused: unknown, used or expired grant, or wrong capability.
            TransferEnded: the peer withdrew the grant, or cancelled.
            TransferBroken: no connection, or the peer is gone.
            TransferIntegrityError: bytes or frames that were not sent like that.
            TransferClosed: cancelled, or closed, on this side.
        """

    def cancel(self) -> None:
        """End it; a no-op if it is over. Returns at once."""

    def add_done_callback(self, call: Callable[[], None]) -> None:
        """Call when it is over, or now if it is; on a thread of the engine."""

    def __await__(self) -> Generator[object, None, TransferStats]:
        """As `wait`, in an event loop."""


@dataclass(frozen=True)
class StreamInfo:
    """What the kernel knows of one connection (TCP_INFO), and what it has carried.

    The smoothed round trip in seconds, segments sent again, and the rate at which
    data were lately delivered, in bytes per second.
    """

    stream: int
    rtt_seconds: float
    retransmits: int
    delivery_bytes_per_second: int
    bytes_sent: int
    bytes_received: int


class Link(Protocol):
    """The way to one peer; it connects again by itself after a failure."""

    @property
    def warm(self) -> bool:
        """Whether a transfer can begin now, without connecting first."""

    def streams(self) -> list[StreamInfo]:
        """The data connections that carry now; none where there are no sockets."""

    def read(
        self,
        grant: Grant,
        into: Region,
        batch: Batch | None = None,
        *,
        timeout: float,
        note: bytes = b"",
    ) -> Transfer:
        """Pull granted bytes into `into`; without a batch, the transfer is fed.

        It is over after `timeout` seconds, whether or not anybody waits. `note` is
        handed to the lender when all bytes have been verified.

        Raises:
            ValueError: a range is out of bounds, targets overlap, the grant is for
                writing, or `note` is too long.
            TransferBroken: the peer cannot be reached.
            TransferIdentityError: another engine now listens there.
        """

    def write(
        self,
        grant: Grant,
        source: Region,
        batch: Batch | None = None,
        *,
        timeout: float,
        note: bytes = b"",
    ) -> Transfer:
        """Push bytes of `source` to the granted pieces; otherwise as `read`."""

    def close(self) -> None:
        """Cancel what is under way and disconnect. May be repeated."""


class Engine(Protocol):
    """Moves bytes between registered memory here and granted memory elsewhere."""

    @property
    def address(self) -> str:
        """Where peers reach it, as grants say."""

    def register(self, buffer: memoryview) -> Region:
        """Make a contiguous, writable buffer movable; `ValueError` for another."""

    def deregister(self, region: Region) -> None:
        """Undo `register`; grants of it end first, as revoked.

        Raises `ValueError` if it is not registered here, and `TransferTimeout` if a
        transfer does not let go of the memory, which must not be freed then: the region
        stays registered, and can be deregistered again.
        """

    def grant(
        self,
        region: Region,
        ranges: Ranges,
        access: Access,
        on_end: Callable[[GrantEnd], None],
        lease_seconds: float = 60.0,
    ) -> Grant:
        """Lend pieces of a region to whoever holds the grant, for one transfer.

        `on_end` is called exactly once, on a thread of the engine: when a transfer
        was verified, on `revoke`, when the lease expires or on `close`, and never
        while the memory is still being read or written. Bytes that were verified
        cannot be changed by the peer. A transfer that fails leaves the grant as it
        was; a new transfer on it ends an earlier one that is still under way.

        Raises `ValueError` for ranges out of bounds, or pieces to write to that
        overlap, and `TransferClosed` after `close`; `on_end` is then not called.
        """

    def revoke(self, grant_id: str) -> None:
        """Withdraw a grant, a no-op if it is over; `ValueError` if not hex."""

    def connect(self, address: str, timeout: float = 10.0) -> Link:
        """The link to the engine at an address.

        Raises `TransferBroken` if nothing answers there, `TransferRefused` if it is
        not allowed to be a peer, `ValueError` for a malformed address.
        """

    def close(self) -> None:
        """End all transfers, grants, threads and sockets. May be repeated."""
