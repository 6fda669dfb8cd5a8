"""The two ends of a transfer: one hands out slices, the other admits them.

Neither is safe for concurrent use: `Board` holds its lock around every call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from prefillshare.errors import TransferIntegrityError
from prefillshare.transfer.base import Ranges
from prefillshare.transfer.ranges import MAX_PIECES, Pieces
from prefillshare.transfer.secure.sealing import Guard
from prefillshare.transfer.tcp.slices import Cuts, Ledger, SliceHead

Over = Callable[[Exception | None], None]


class End:
    """What both ends have: memory in pieces, and the streams that are at it now.

    `guard` protects the slices. `over` is told how it ended, once, when no stream is at
    the memory any more.
    """

    def __init__(
        self,
        number: int,
        memory: memoryview,
        slice_bytes: int,
        guard: Guard,
        over: Over,
    ) -> None:
        self.number, self.slice_bytes, self.guard = number, slice_bytes, guard
        self.pieces = Pieces(memory)
        self.cuts = Cuts(slice_bytes)
        self.finished = False
        self.moved = 0
        self.over = over
        self.active: set[int] = set()
        self.ended = False
        self.failure: Exception | None = None

    def check(self, ranges: Ranges, sizes: Sequence[int]) -> None:
        """Raise `ValueError` if adding these makes too many slices or pieces."""
        if len(self.pieces) + len(ranges) > MAX_PIECES:
            raise ValueError(
                f"more than {MAX_PIECES} pieces; add fewer, or larger ones"
            )
        self.cuts.check(sizes)

    def add(self, ranges: Ranges, sizes: Sequence[int]) -> None:
        """Append checked ranges, told to the peer in parts of so many bytes.

        Raises as `check`.
        """
        self.check(ranges, sizes)
        self.pieces.add(ranges)
        for size in sizes:
            self.cuts.add(size)

    def finish(self) -> None:
        """Nothing more will be added."""
        self.finished = True

    def tell(self) -> None:
        """It is over, and no stream is at the memory any more."""
        if self.failure is None:
            # What went again for a stream that was lost had perhaps arrived before.
            self.moved = self.pieces.size
        self.over(self.failure)


class Sending(End):
    """Hands out slices."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self._next = 0
        self._again: deque[int] = deque()
        self._sequence = 0
        self._issued: dict[int, list[int]] = {}

    @property
    def ready(self) -> bool:
        """Whether there is a slice to send now."""
        return bool(self._again) or self._next < self.cuts.count

    def take(self, stream: int) -> SliceHead:
        """The next slice, to go out on a stream now."""
        if self._again:
            number = self._again.popleft()
        else:
            number = self._next
            self._next += 1
        self._issued.setdefault(stream, []).append(number)
        self._sequence += 1
        first, last = self.cuts.span(number)
        return SliceHead(self.number, number, last - first, self._sequence)

    def views(self, head: SliceHead) -> list[memoryview]:
        """The bytes of a slice, where they lie."""
        return self.pieces.views(*self.cuts.span(head.number))

    def lost(self, stream: int, arrived: Ledger) -> None:
        """Send again what went out on a stream and is not among what arrived."""
        for number in self._issued.pop(stream, []):
            if number not in arrived:
                self._again.append(number)
                first, last = self.cuts.span(number)
                self.moved -= last - first


class Whole(Sending):
    """A small write that went with its frame: no stream carries anything of it."""

    @property
    def ready(self) -> bool:
        """Never."""
        return False


class Receiving(End):
    """Admits every slice once; none while it is `held`, before its turn has come."""

    def __init__(self, *args: object, held: bool = False) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.held = held
        self.arrived = Ledger()
        self._claimed: set[int] = set()

    @property
    def complete(self) -> bool:
        """Whether all bytes are in place and verified."""
        whole = self.finished and self.moved == self.pieces.size
        return whole and not self.held

    def covers(self, head: SliceHead) -> bool:
        """Whether it can be said now where the slice goes, or that it goes nowhere."""
        known = self.finished or head.number < self.cuts.count
        return known and not self.held

    def claim(self, head: SliceHead) -> list[memoryview]:
        """Where a covered slice goes; `settle` or `release` follows.

        `TransferIntegrityError` for one that is out of range, or came before.
        """
        first, last = self.cuts.span(head.number) if self.cuts.count else (0, 0)
        if head.number >= self.cuts.count or head.length != last - first:
            raise TransferIntegrityError(
                f"{head} is no slice of {self.pieces.size} bytes by {self.slice_bytes}"
            )
        if head.number in self.arrived or head.number in self._claimed:
            raise TransferIntegrityError(f"{head} arrived twice")
        self._claimed.add(head.number)
        return self.pieces.views(first, last)

    def release(self, head: SliceHead) -> None:
        """The slice did not arrive whole."""
        self._claimed.discard(head.number)

    def settle(self, head: SliceHead) -> None:
        """The slice is in place and verified."""
        self._claimed.discard(head.number)
        self.arrived.enter(head.number)
        self.moved += head.length
