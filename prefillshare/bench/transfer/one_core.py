"""What one core does to slices of memory that is not in the caches, by the clock."""

from __future__ import annotations

import time
from collections.abc import Callable

from prefillshare.bench.transfer.orders import Worker
from prefillshare.bench.transfer.processes import Facts
from prefillshare.bench.transfer.shapes import buffer, fill


class SliceWorker(Worker):
    """Holds `size` bytes, in whole slices of at most `slice_bytes`."""

    def __init__(self, size: int, slice_bytes: int) -> None:
        self.step = min(slice_bytes, size)
        self._memory = buffer(size // self.step * self.step)
        fill(self._memory, 1)
        whole = self._memory.data
        places = range(0, len(whole), self.step)
        self.slices = [whole[at : at + self.step] for at in places]

    def timed(self, run: Callable[[int, memoryview], object]) -> Facts:
        """Seconds for all slices, by their number, and of processor time."""
        cpu, began = time.process_time(), time.perf_counter()
        for number, view in enumerate(self.slices):
            run(number, view)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        return {"seconds": seconds, "cpu": cpu, "bytes": len(self._memory)}
