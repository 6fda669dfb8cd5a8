"""The same hand-over by a copy within one process: what any transfer costs at least."""

from __future__ import annotations

import time

import numpy as np

from prefillshare.bench.transfer.attention import Query, keys_into, rows_of
from prefillshare.bench.transfer.found import Found
from prefillshare.bench.transfer.handover import CASES
from prefillshare.bench.transfer.orders import Worker
from prefillshare.bench.transfer.processes import Facts, workers
from prefillshare.bench.transfer.settings import TransferBenchSettings
from prefillshare.bench.transfer.shapes import Plan, buffer, plan


class CopyingWorker(Worker):
    """Copies blocks from resident memory to memory of its own, and reads them there."""

    def __init__(self, size: int, block: int) -> None:
        self._plan = Plan("handover", size, block, size // block)
        self._source = buffer(size).reshape(-1, block)
        keys = np.random.default_rng(1).standard_normal(block // 4, np.float32)
        for number, at in enumerate(self._plan.sources):
            keys_into(self._source[at], number, keys)
        self._query = Query(rows_of(size))

    def copy(self) -> Facts:
        """Seconds of the copy, until the first block was read, and the last; and of a
        copy to memory that is resident.
        """
        began = time.monotonic()
        copied = np.empty_like(self._source)
        self._into(copied)
        done = time.monotonic()
        first, last = self._query.read([block.data for block in copied])
        again = time.monotonic()
        self._into(copied)
        resident = time.monotonic() - again
        same = all(
            np.array_equal(copied[to], self._source[at])
            for to, at in enumerate(self._plan.sources)
        )
        return {
            "copied": done - began,
            "first": first - began,
            "last": last - began,
            "resident": resident,
            "verified": same,
        }

    def _into(self, memory: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
        for to, at in enumerate(self._plan.sources.tolist()):
            memory[to] = self._source[at]


def run_copying(settings: TransferBenchSettings, number: int) -> list[Found]:
    """One copy of as many bytes, in the same blocks."""
    which = plan(settings, "scattered")
    with workers("copier") as (copier,):
        copier("begin", size=which.size, block=which.block)
        found = copier("copy")
    took = {
        "copied, to fresh memory": found["copied"] * 1e6,
        "first block": (found["first"] - found["copied"]) * 1e6,
        "other blocks": (found["last"] - found["first"]) * 1e6,
        "copied, to resident memory": found["resident"] * 1e6,
    }
    return [
        Found(
            shape="handover",
            case=case,
            p50_us=found[end] * 1e6,
            extra_bytes=which.size,
            verified=found["verified"],
            stages_us=took,
        )
        for case, end in zip(CASES, ("first", "last"), strict=True)
    ]
