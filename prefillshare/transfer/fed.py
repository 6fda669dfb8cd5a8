"""A transfer that one thread feeds and another, its mover, takes batches from."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator

import numpy as np

from prefillshare.errors import TransferClosed, TransferError, TransferTimeout
from prefillshare.transfer.base import Batch, Grant, Region
from prefillshare.transfer.pending import Pending
from prefillshare.transfer.ranges import as_ranges, check_within
from prefillshare.transfer.rows import Covered


class FedTransfer(Pending):
    """A `Transfer` that a thread feeds and another, its mover, takes batches from."""

    def __init__(self, region: Region, grant: Grant, timeout: float, note: bytes):
        super().__init__()
        self.region = region
        self.grant = grant
        self.timeout = timeout
        self.note = note
        self._deadline = time.monotonic() + timeout
        self._covered = Covered()
        self._fed = threading.Condition()
        self._batches: deque[Batch] = deque()
        self._finished = False

    def add(self, batch: Batch) -> None:
        """See `Transfer.add`."""
        found = as_ranges(batch, 3)
        check_within(found[:, [0, 2]], self.region.memory.nbytes, "the region")
        check_within(found[:, 1:], self.grant.size, "the grant")
        target = found[:, [0, 2]] if self.grant.access == "read" else found[:, 1:]
        with self._fed:
            if self._finished or self.cause or self.done:
                raise TransferError("the transfer is finished or over; begin another")
            self._covered.add(target)
            self.announce(int(found[:, 2].sum()), len(found))
            # The caller may use its array again.
            self._batches.append(found.copy())
            self.wake()

    def finish(self) -> None:
        """See `Transfer.finish`."""
        with self._fed:
            empty = not self.progress[1]
            self._finished = not empty
            self.wake()
        if empty:
            self.stop(TransferClosed("nothing was added to it"))
            raise ValueError("a transfer of nothing; add a batch before `finish`")

    def interrupt(self) -> None:
        """See `Pending.interrupt`."""
        self.wake()

    def wake(self) -> None:
        """Have the mover look again at what was added, and whether to stop."""
        with self._fed:
            self._fed.notify_all()

    def batches(self) -> Iterator[Batch]:
        """What was added, until `finish`; for the mover, errors as `check`."""
        while True:
            self.check()
            with self._fed:
                rows, over = list(self._batches), self._finished
                self._batches.clear()
            if rows:
                yield np.concatenate(rows)
            elif over:
                return
            else:
                self.pause()

    def pause(self) -> None:
        """Wait until `batches` may go on."""
        with self._fed:
            if not (self._batches or self._finished or self.cause):
                self._fed.wait(self.remaining())

    def stall(self) -> None:
        """Do nothing until it is stopped or its time is over, and raise that."""
        with self._fed:
            while True:
                self.check()
                self._fed.wait(self.remaining())

    def check(self) -> None:
        """Raise what stopped the transfer, or `TransferTimeout` after its time."""
        if self.cause:
            raise self.cause
        self.remaining()

    def remaining(self) -> float:
        """Seconds that are left, or `TransferTimeout`."""
        if (left := self._deadline - time.monotonic()) > 0:
            return left
        raise TransferTimeout(f"not over after {self.timeout} s; moved {self.progress}")
