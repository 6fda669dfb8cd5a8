"""Slices: what a data stream carries, and which of a transfer have arrived."""

from __future__ import annotations

import bisect
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from xxhash import xxh3_64_intdigest

from prefillshare.errors import TransferIntegrityError
from prefillshare.transfer.tcp.frames import MAX_SLICE_BYTES, MAX_SLICES

_MARK, _SLICE = struct.Struct("!HH"), struct.Struct("!IIIQ")
_MAGIC = 0x5053
TAG_BYTES = 16
HEAD_BYTES = _MARK.size + _SLICE.size + TAG_BYTES


@dataclass(frozen=True)
class SliceHead:
    """`length` bytes, slice `number` of a transfer, the `sequence`-th that it sends."""

    transfer: int
    number: int
    length: int
    sequence: int

    def pack(self) -> bytes:
        """The head but for its tag, which covers it.

        It has a checksum of its own: what it says is acted on before the tag is there.
        """
        values = self.transfer, self.number, self.length, self.sequence
        packed = _SLICE.pack(*values)
        return _MARK.pack(_MAGIC, _checksum(packed)) + packed

    @classmethod
    def unpack(cls, head: bytes | memoryview) -> SliceHead:
        """`TransferIntegrityError` unless `head` begins a slice within the bounds."""
        magic, checksum = _MARK.unpack_from(head)
        if magic != _MAGIC:
            raise TransferIntegrityError(f"no slice begins with {bytes(head[:4])!r}")
        if checksum != _checksum(head[_MARK.size : _MARK.size + _SLICE.size]):
            raise TransferIntegrityError("checksum mismatch in the head of a slice")
        values = _SLICE.unpack_from(head, _MARK.size)
        transfer, number, length, sequence = values
        if number >= MAX_SLICES or not 1 <= length <= MAX_SLICE_BYTES:
            raise TransferIntegrityError(
                f"slice {number} of {length} bytes; at most {MAX_SLICES} slices of "
                f"{MAX_SLICE_BYTES} bytes are allowed"
            )
        return cls(transfer, number, length, sequence)


def _checksum(head: bytes | memoryview) -> int:
    return xxh3_64_intdigest(head) & 0xFFFF


class Cuts:
    """Where a transfer's bytes are cut into slices: anew with each addition to it.

    So all that was added leaves, and both ends know the same slices.
    """

    def __init__(self, slice_bytes: int) -> None:
        self._step = slice_bytes
        self._numbers: list[int] = []
        self._bytes: list[int] = []
        self.count = 0
        self.size = 0

    def check(self, sizes: Sequence[int]) -> None:
        """Raise `ValueError` if adding parts of so many bytes makes too many slices."""
        if self.count + sum(-(-size // self._step) for size in sizes) > MAX_SLICES:
            raise ValueError(
                f"{self.size + sum(sizes)} bytes are more than {MAX_SLICES} slices of "
                f"{self._step} bytes; use larger slices, or add more at a time"
            )

    def add(self, size: int) -> None:
        """Append so many bytes."""
        self._numbers.append(self.count)
        self._bytes.append(self.size)
        self.count += -(-size // self._step)
        self.size += size

    def span(self, number: int) -> tuple[int, int]:
        """First byte of a slice, and the one past its last."""
        part = bisect.bisect_right(self._numbers, number) - 1
        first = self._bytes[part] + (number - self._numbers[part]) * self._step
        later = self._bytes[part + 1 : part + 2]
        return first, min(first + self._step, later[0] if later else self.size)


class Ledger:
    """Which slices of a transfer have arrived; not safe for concurrent use."""

    def __init__(self) -> None:
        self._bits = bytearray()
        self.count = 0

    def __contains__(self, number: int) -> bool:
        byte = number >> 3
        return byte < len(self._bits) and bool(self._bits[byte] >> (number & 7) & 1)

    def enter(self, number: int) -> None:
        """Note a slice, which has not been noted before."""
        if (short := (number >> 3) + 1 - len(self._bits)) > 0:
            self._bits += bytes(max(short, len(self._bits)))
        self._bits[number >> 3] |= 1 << (number & 7)
        self.count += 1

    def to_bytes(self) -> bytes:
        """One bit a slice, lowest first."""
        return bytes(self._bits).rstrip(b"\0")

    @classmethod
    def from_bytes(cls, bits: bytes) -> Ledger:
        """Undo `to_bytes`."""
        made = cls()
        made._bits = bytearray(bits)
        made.count = int.from_bytes(bits).bit_count()
        return made
