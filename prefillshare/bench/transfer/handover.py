"""A cache in shared memory, from its last byte written to its first one read.

The prefill side writes blocks into its arena and lends them; another process maps them
and lets one query read them where they lie. Times are of the clock that all processes
of a machine share.
"""

from __future__ import annotations

import threading
import time

import numpy as np

from prefillshare.bench.transfer import usage
from prefillshare.bench.transfer.attention import Query, digest_of, keys_into, rows_of
from prefillshare.bench.transfer.found import Found
from prefillshare.bench.transfer.orders import Worker
from prefillshare.bench.transfer.processes import Facts, workers
from prefillshare.bench.transfer.settings import TransferBenchSettings
from prefillshare.bench.transfer.shapes import Plan, plan
from prefillshare.errors import TransferError, TransferTimeout
from prefillshare.transfer.arena import Arena
from prefillshare.transfer.base import Grant, GrantEnd, Outcome
from prefillshare.transfer.shm import ShmEngine

# Private memory beyond this share of the bytes would be a copy of some of them.
COPY_SHARE = 50
CASES = ("first block read", "all blocks read")


class LendingWorker(Worker):
    """Has the arena."""

    def __init__(self, size: int, block: int) -> None:
        self._plan = Plan("handover", size, block, size // block)
        self._arena = Arena(size)
        self._engine = ShmEngine(self._arena)
        self._region = self._engine.register(self._arena.view)
        self._blocks = np.frombuffer(self._arena.view, np.uint8).reshape(-1, block)
        self._over, self._end = threading.Event(), GrantEnd(Outcome.REVOKED)

    def address(self) -> Facts:
        """Where it listens."""
        return {"address": self._engine.address}

    def write(self) -> Facts:
        """Fill the blocks in no order, and lend them in that: when, and the grant."""
        block, order = self._plan.block, self._plan.sources
        source = np.random.default_rng(1).standard_normal(block // 4, np.float32)
        for number, at in enumerate(order):
            keys_into(self._blocks[at], number, source)
        written = time.monotonic()
        ranges = np.stack([order * block, np.full(len(order), block)], axis=1)
        grant = self._engine.grant(self._region, ranges, "read", self._ended)
        granted = time.monotonic()
        return {"written": written, "granted": granted, "ticket": grant.to_dict()}

    def _ended(self, end: GrantEnd) -> None:
        self._end = end
        self._over.set()

    def settle(self, timeout: float) -> Facts:
        """Wait until the blocks were given back; their digest."""
        if not self._over.wait(timeout):
            raise TransferTimeout(f"the reader kept the blocks for {timeout:g} s")
        if self._end.outcome is not Outcome.DONE:
            raise TransferError(f"the grant ended as {self._end}, not as read")
        return {
            "digest": digest_of([self._blocks[at].data for at in self._plan.sources])
        }


class ReadingWorker(Worker):
    """Maps what is lent, and reads it."""

    def __init__(self, address: str, size: int) -> None:
        self._engine = ShmEngine()
        self._link = self._engine.connect(address)
        self._query = Query(rows_of(size))

    def read(self, ticket: Facts) -> Facts:
        """Map, let the query read twice, and give back: when, and private bytes."""
        received = time.monotonic()
        own = usage.own_memory()
        self.forget_peaks()
        with self._link.map(Grant.from_dict(ticket)) as mapping:
            mapped = time.monotonic()
            first, last = self._query.read(mapping.views)
            _, again = self._query.read(mapping.views)
            private = usage.private_growth(own)
            digest = digest_of(mapping.views)
        return {
            "received": received,
            "mapped": mapped,
            "first": first,
            "last": last,
            "again": again,
            "private": private,
            "digest": digest,
        }


def run_handover(settings: TransferBenchSettings, number: int) -> list[Found]:
    """One hand-over of `total_bytes` in blocks of the size of scattered ones."""
    which = plan(settings, "scattered")
    with workers("lender", "reader") as (lender, reader):
        lender("begin", size=which.size, block=which.block)
        reader("begin", **lender("address"), size=which.size)
        lent = lender("write")
        read = reader("read", ticket=lent["ticket"])
        digest = lender("settle", timeout=settings.timeout_seconds)["digest"]
    when = {**lent, **read}
    stages = ["written", "granted", "received", "mapped", "first", "last", "again"]
    names = ["granted", "told to the reader", "mapped", "first block", "other blocks"]
    names.append("all blocks again")
    took = {
        name: (when[end] - when[start]) * 1e6
        for name, start, end in zip(names, stages[:-1], stages[1:], strict=True)
    }
    return [
        Found(
            shape="handover",
            case=case,
            p50_us=(when[end] - when["written"]) * 1e6,
            extra_bytes=read["private"],
            verified=digest == read["digest"],
            limits={"extra_bytes": which.size / COPY_SHARE},
            stages_us=took,
        )
        for case, end in zip(CASES, ("first", "last"), strict=True)
    ]
