"""The frames of a transfer, and the ledger of the slices that have arrived.

Every frame is a head of 32 bytes, then a tail whose length the head tells::

    magic 4s | version u8 | kind u8 | 2 zero bytes | 24 bytes by kind | tail
    HELLO  transfer id 16s                                | capability 32s
    GRANT  blocks u32, bytes_per_block u64, slice_bytes u32
    SLICE  block u32, offset u64, length u32, xxh3_64 u64  | payload
    DONE   from the exporter: all sent; from the importer: all verified
    ERROR  code u16, length u16                            | UTF-8 text

The importer sends HELLO; the exporter GRANT, every SLICE and DONE, or ERROR; the
importer answers with DONE, and the exporter closes the connection.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from prefillshare.errors import TransferBroken, TransferIntegrityError

TRANSFER_ID_BYTES = 16
CAPABILITY_BYTES = 32
MAX_BLOCKS = 1 << 16
MAX_BLOCK_BYTES = 1 << 28
MAX_SLICE_BYTES = 1 << 24
MAX_SLICES = 1 << 22
DEFAULT_SLICE_BYTES = 1 << 18
MAGIC = b"PSKV"
VERSION = 1
HEAD_BYTES = 32
MAX_ERROR_BYTES = 512

_HEAD = struct.Struct("!4sBBH24s")
_GRANT = struct.Struct("!IQI")
_SLICE = struct.Struct("!IQIQ")
_ERROR = struct.Struct("!HH")


def check_shape(blocks: int, bytes_per_block: int, slice_bytes: int) -> None:
    """Raise `ValueError` unless the sizes of a transfer are within the bounds."""
    for name, value, most in (
        ("blocks", blocks, MAX_BLOCKS),
        ("bytes_per_block", bytes_per_block, MAX_BLOCK_BYTES),
        ("slice_bytes", slice_bytes, min(MAX_SLICE_BYTES, bytes_per_block)),
    ):
        if not 1 <= value <= most:
            raise ValueError(f"{name} is {value}, it must be within 1..{most}")
    if (slices := blocks * math.ceil(bytes_per_block / slice_bytes)) > MAX_SLICES:
        raise ValueError(
            f"{slices} slices exceed {MAX_SLICES}; use larger slices than {slice_bytes}"
        )


def spans(blocks: int, block_bytes: int, step: int) -> Iterator[tuple[int, int, int]]:
    """Yield (block, first byte, byte past the last) of every slice, in order."""
    for block in range(blocks):
        for start in range(0, block_bytes, step):
            yield block, start, min(start + step, block_bytes)


def flat(views: Sequence[memoryview]) -> list[memoryview]:
    """Return the views as bytes; `ValueError` unless contiguous, of one size > 0."""
    if not views or not views[0].nbytes or len({v.nbytes for v in views}) > 1:
        raise ValueError(
            f"{len(views)} blocks of sizes {sorted({v.nbytes for v in views})}; "
            "pass at least one, all of the same size"
        )
    if not all(view.c_contiguous for view in views):
        raise ValueError("a block is not contiguous in memory")
    return [view.cast("B") for view in views]


class _Kind(IntEnum):
    HELLO = 1
    GRANT = 2
    SLICE = 3
    DONE = 4
    ERROR = 5


class ErrorCode(IntEnum):
    """Why an exporter ends a connection."""

    REFUSED = 1
    PROTOCOL = 2


@dataclass(frozen=True)
class Hello:
    """A request for one export: an id of 16 bytes and a capability of 32."""

    transfer_id: bytes
    capability: bytes


@dataclass(frozen=True)
class Grant:
    """The sizes of what follows, in bytes where they are sizes."""

    blocks: int
    bytes_per_block: int
    slice_bytes: int


@dataclass(frozen=True)
class Slice:
    """The head of a slice: `length` bytes at `offset` of a block follow it."""

    block: int
    offset: int
    length: int
    checksum: int


@dataclass(frozen=True)
class Done:
    """All sent, or all verified."""


@dataclass(frozen=True)
class Failure:
    """Why the exporter sends nothing; text beyond 512 bytes is cut."""

    code: ErrorCode
    text: str


Frame = Hello | Grant | Slice | Done | Failure
RecvInto = Callable[[memoryview], int]


def encode(frame: Frame) -> bytes:
    """Return a frame; of a slice the head, its payload is sent from where it lies."""
    tail = b""
    match frame:
        case Hello(body, tail):
            kind = _Kind.HELLO
        case Grant(blocks, size, step):
            kind, body = _Kind.GRANT, _GRANT.pack(blocks, size, step)
        case Slice(block, offset, length, checksum):
            kind = _Kind.SLICE
            body = _SLICE.pack(block, offset, length, checksum)
        case Done():
            kind, body = _Kind.DONE, b""
        case Failure(code, text):
            tail = text.encode(errors="replace")[:MAX_ERROR_BYTES]
            kind, body = _Kind.ERROR, _ERROR.pack(code, len(tail))
    return _HEAD.pack(MAGIC, VERSION, kind, 0, body) + tail


def fill(recv_into: RecvInto, view: memoryview) -> None:
    """Receive until the view of bytes is full; `TransferBroken` at end of stream."""
    while view:
        count = recv_into(view)
        if not count:
            raise TransferBroken("the peer ended the connection within a transfer")
        view = view[count:]


def _take(recv_into: RecvInto, size: int) -> bytes:
    data = bytearray(size)
    fill(recv_into, memoryview(data))
    return bytes(data)


def _bounded(name: str, value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise TransferIntegrityError(f"{name} is {value}, not within {low}..{high}")
    return value


def read_frame(recv_into: RecvInto) -> Frame:
    """Receive one frame, without the payload if it is a slice.

    Sizes are checked before anything is allocated. Raises `TransferIntegrityError`
    for a malformed frame, `TransferBroken` at end of stream and what `recv_into`
    raises.
    """
    magic, version, kind, zero, body = _HEAD.unpack(_take(recv_into, HEAD_BYTES))
    if magic != MAGIC or zero:
        raise TransferIntegrityError(f"no frame of a transfer starts with {magic!r}")
    if version != VERSION:
        raise TransferIntegrityError(
            f"the peer speaks version {version}, this side {VERSION}; "
            "install the same release on both"
        )
    if kind == _Kind.HELLO:
        tail = _take(recv_into, CAPABILITY_BYTES)
        return Hello(body[:TRANSFER_ID_BYTES], tail)
    if kind == _Kind.GRANT:
        grant = Grant(*_GRANT.unpack_from(body))
        try:
            check_shape(grant.blocks, grant.bytes_per_block, grant.slice_bytes)
        except ValueError as error:
            raise TransferIntegrityError(f"grant: {error}") from error
        return grant
    if kind == _Kind.SLICE:
        part = Slice(*_SLICE.unpack(body))
        _bounded("slice block", part.block, 0, MAX_BLOCKS - 1)
        _bounded("slice offset", part.offset, 0, MAX_BLOCK_BYTES - 1)
        _bounded("slice length", part.length, 1, MAX_SLICE_BYTES)
        return part
    if kind == _Kind.DONE:
        return Done()
    if kind == _Kind.ERROR:
        code, length = _ERROR.unpack_from(body)
        _bounded("error code", code, min(ErrorCode), max(ErrorCode))
        _bounded("error length", length, 0, MAX_ERROR_BYTES)
        text = _take(recv_into, length).decode(errors="replace")
        return Failure(ErrorCode(code), text)
    raise TransferIntegrityError(f"unknown kind of frame: {kind}")


class SliceLedger:
    """Which slices of a granted transfer have arrived."""

    def __init__(self, grant: Grant) -> None:
        self._grant = grant
        self._per_block = -(-grant.bytes_per_block // grant.slice_bytes)
        self._seen = bytearray(grant.blocks * self._per_block)
        self._left = len(self._seen)

    def enter(self, part: Slice) -> None:
        """Note a slice; `TransferIntegrityError` if out of range or a duplicate."""
        grant = self._grant
        number, odd = divmod(part.offset, grant.slice_bytes)
        length = min(grant.slice_bytes, grant.bytes_per_block - part.offset)
        if part.block >= grant.blocks or odd or part.length != length:
            raise TransferIntegrityError(f"{part} is no slice of {grant}")
        index = part.block * self._per_block + number
        if self._seen[index]:
            raise TransferIntegrityError(f"{part} arrived twice")
        self._seen[index] = 1
        self._left -= 1

    def finish(self) -> None:
        """Raise `TransferIntegrityError` unless every slice has arrived."""
        if self._left:
            raise TransferIntegrityError(
                f"{self._left} of {len(self._seen)} slices are missing"
            )
