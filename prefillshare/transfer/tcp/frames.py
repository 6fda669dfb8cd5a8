"""The frames of the control connection.

A frame is a head of 16 bytes, length of the body u32, kind u8, 3 zero bytes and a
checksum u64, then the body: the fields of `layout` in their order, and what is left is
the last field. The checksum is xxh3 over the rest, seeded with the frame's place on its
way, from 0: what got damaged, lost, repeated or out of order is found. Numbers are
big-endian, tables of ranges little-endian int64 pairs. PROTOCOL.md tells who sends what
when.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar, Self

import numpy as np
from xxhash import xxh3_64_intdigest

from prefillshare.errors import TransferBroken, TransferIntegrityError
from prefillshare.transfer.base import MAX_NOTE_BYTES, Ranges
from prefillshare.transfer.ranges import as_ranges

MAGIC = b"PSTE"
VERSION = 1
# A control frame takes so many ranges; a longer batch comes in several.
MAX_RANGES = 1 << 15
MAX_TEXT_BYTES = 512
EAGER_BYTES = 1 << 15
MAX_EAGER_RANGES = 1 << 10
MIN_SLICE_BYTES, MAX_SLICE_BYTES = 1 << 12, 1 << 24
MAX_SLICES = 1 << 22

_HEAD = struct.Struct("!IB3s")
_SUM = struct.Struct("!Q")


class Code(IntEnum):
    """Why a transfer, or a session, ends badly."""

    REFUSED = 1
    ENDED = 2
    INTEGRITY = 3
    TIMEOUT = 4
    BROKEN = 5


@dataclass(frozen=True)
class Frame:
    """One message: `layout` packs its fields, but for the last if `tail` bounds it.

    `tail` is the most bytes that the last field, of type bytes, may have.
    """

    kind: ClassVar[int]
    layout: ClassVar[struct.Struct] = struct.Struct("")
    tail: ClassVar[int | None] = None

    def encode(self, place: int = 0) -> bytes:
        """The frame at its place on its way; `ValueError` if a field does not fit."""
        values: list[Any] = [getattr(self, f.name) for f in dataclasses.fields(self)]
        end = values.pop() if self.tail is not None else b""
        if len(end) > (self.tail or 0):
            raise ValueError(f"{len(end)} bytes exceed {self.tail}")
        body = self.layout.pack(*values) + end
        head = _HEAD.pack(len(body), self.kind, bytes(3))
        return head + _SUM.pack(_sum_of(head, body, place)) + body

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """The frame of a body; `ValueError` or `struct.error` if it is not one."""
        fixed: struct.Struct = cls.layout
        end: tuple[bytes, ...] = ()
        if cls.tail is not None:
            end = (body[fixed.size :],)
            body = body[: fixed.size]
            if len(end[0]) > cls.tail:
                raise ValueError(f"{len(end[0])} bytes exceed {cls.tail}")
        values: Iterable[Any] = (*fixed.unpack(body), *end)
        return cls(*values)


@dataclass(frozen=True)
class Hello(Frame):
    """Who speaks: an engine; in the answer, the session and the key to its streams."""

    kind, layout = 1, struct.Struct("!4sHH16s16s32s")
    magic: bytes
    version: int
    sealed: int
    engine: bytes
    session: bytes
    secret: bytes

    def check(self) -> Hello:
        """Itself; `TransferIntegrityError` if the peer speaks another protocol."""
        if (self.magic, self.version) != (MAGIC, VERSION):
            raise TransferIntegrityError(
                f"the peer speaks {self.magic!r} version {self.version}, this side "
                f"{MAGIC!r} version {VERSION}; install the same release on both"
            )
        return self


@dataclass(frozen=True)
class Open(Frame):
    """A transfer begins: `key` seals its slices, all zero if they are not sealed."""

    kind, layout, tail = 2, struct.Struct("!I?I16s32s32s"), MAX_NOTE_BYTES
    transfer: int
    write: bool
    slice_bytes: int
    grant: bytes
    capability: bytes
    key: bytes
    note: bytes

    def __post_init__(self) -> None:
        if not MIN_SLICE_BYTES <= self.slice_bytes <= MAX_SLICE_BYTES:
            raise ValueError(
                f"slice_bytes is {self.slice_bytes}, not within "
                f"{MIN_SLICE_BYTES}..{MAX_SLICE_BYTES}"
            )


@dataclass(frozen=True)
class Add(Frame):
    """Ranges of the grant, appended to a transfer."""

    kind, layout, tail = 3, struct.Struct("!I"), 16 * MAX_RANGES
    transfer: int
    table: bytes

    @property
    def ranges(self) -> Ranges:
        """The table as an array; `ValueError` for a malformed one."""
        return unpacked(self.table)


@dataclass(frozen=True)
class Finish(Frame):
    """Nothing more will be added: so many bytes are all."""

    kind, layout = 4, struct.Struct("!IQ")
    transfer: int
    total: int


@dataclass(frozen=True)
class Eager(Frame):
    """A small write, whole: `rest` is the table of ranges, the note and the payload."""

    kind, layout = 5, struct.Struct("!I16s32sIH")
    tail = 16 * MAX_EAGER_RANGES + MAX_NOTE_BYTES + EAGER_BYTES
    transfer: int
    grant: bytes
    capability: bytes
    ranges: int
    note: int
    rest: bytes

    def parts(self) -> tuple[Ranges, bytes, memoryview]:
        """Ranges, note and payload; `ValueError` if they are malformed."""
        if self.ranges > MAX_EAGER_RANGES or self.note > MAX_NOTE_BYTES:
            raise ValueError(f"{self.ranges} ranges and a note of {self.note} bytes")
        table, end = 16 * self.ranges, 16 * self.ranges + self.note
        ranges, payload = unpacked(self.rest[:table]), memoryview(self.rest)[end:]
        if int(ranges[:, 1].sum()) != payload.nbytes:
            raise ValueError(f"{payload.nbytes} bytes do not fill the ranges")
        return ranges, self.rest[table:end], payload


@dataclass(frozen=True)
class Done(Frame):
    """The receiving end has verified every byte."""

    kind, layout = 6, struct.Struct("!I")
    transfer: int


@dataclass(frozen=True)
class Fail(Frame):
    """A transfer is over, or with number 0 the session."""

    kind, layout, tail = 7, struct.Struct("!IH"), MAX_TEXT_BYTES
    transfer: int
    code: int
    text: bytes


@dataclass(frozen=True)
class Lost(Frame):
    """A stream broke: what arrived by it? The receiving end answers `Have`, `Known`."""

    kind, layout = 8, struct.Struct("!I")
    stream: int


@dataclass(frozen=True)
class Have(Frame):
    """The slices of a transfer that arrived, by any stream: one bit each."""

    kind, layout, tail = 9, struct.Struct("!II"), MAX_SLICES // 8
    transfer: int
    stream: int
    bits: bytes


@dataclass(frozen=True)
class Known(Frame):
    """All `Have` for a lost stream are sent."""

    kind, layout = 10, struct.Struct("!I")
    stream: int


@dataclass(frozen=True)
class Ping(Frame):
    """Are you there?"""

    kind = 11


@dataclass(frozen=True)
class Pong(Frame):
    """Yes."""

    kind = 12


@dataclass(frozen=True)
class Bye(Frame):
    """The peer closes in an orderly way."""

    kind = 13


_KINDS = {kind.kind: kind for kind in Frame.__subclasses__()}


def packed(ranges: Ranges) -> bytes:
    """A table of ranges as it travels."""
    return ranges.astype("<i8", copy=False).tobytes()


def unpacked(table: bytes) -> Ranges:
    """The ranges of a table; `ValueError` for a malformed one."""
    return as_ranges(np.frombuffer(table, "<i8").reshape(-1, 2))


Receive = Callable[[int], bytes]


def read_exactly(receive: Receive, size: int) -> bytes:
    """`size` bytes, `receive` returning up to so many; `TransferBroken` at the end."""
    parts: list[bytes] = []
    while size:
        parts.append(receive(size))
        if not parts[-1]:
            raise TransferBroken("the peer ended the connection")
        size -= len(parts[-1])
    return parts[0] if len(parts) == 1 else b"".join(parts)


def read_frame(receive: Receive, place: int = 0) -> Frame:
    """Receive the frame at a place; its size is checked before anything is allocated.

    Raises `TransferIntegrityError` for a malformed frame, or another than was sent
    there, `TransferBroken` at end of stream, and what `receive` raises.
    """
    start = read_exactly(receive, _HEAD.size + _SUM.size)
    head = start[: _HEAD.size]
    length, number, zero = _HEAD.unpack(head)
    kind = _KINDS.get(number)
    if kind is None or any(zero) or length > kind.layout.size + (kind.tail or 0):
        raise TransferIntegrityError(
            f"no frame begins with length {length}, kind {number}, {zero!r}: is this "
            "the port of a transfer engine?"
        )
    body = read_exactly(receive, length)
    if _sum_of(head, body, place) != _SUM.unpack(start[_HEAD.size :])[0]:
        raise TransferIntegrityError(
            f"frame {place}, {kind.__name__} of {length} bytes, is not what was sent "
            "there: damaged, repeated or out of order"
        )
    try:
        return kind.decode(body)
    except (struct.error, ValueError) as error:
        raise TransferIntegrityError(f"{kind.__name__}: {error}") from error


def _sum_of(head: bytes, body: bytes, place: int) -> int:
    return xxh3_64_intdigest(body, xxh3_64_intdigest(head, place))
