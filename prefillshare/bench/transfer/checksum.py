"""What the engine's checksum does on one core, with nothing else to do."""

from __future__ import annotations

import time

from xxhash import xxh3_64_intdigest

from prefillshare.bench.transfer.found import Found
from prefillshare.bench.transfer.orders import Worker
from prefillshare.bench.transfer.processes import Facts, workers
from prefillshare.bench.transfer.settings import TransferBenchSettings
from prefillshare.bench.transfer.shapes import buffer, fill
from prefillshare.bench.transfer.specs import Checksum


class ChecksumWorker(Worker):
    """Reads memory that is not in the caches, slice by slice, as a sender does."""

    def __init__(self, size: int, slice_bytes: int) -> None:
        step = min(slice_bytes, size)
        self._memory = buffer(size // step * step)
        fill(self._memory, 1)
        whole = self._memory.data
        self._slices = [whole[at : at + step] for at in range(0, len(whole), step)]
        self._known = [xxh3_64_intdigest(view) for view in self._slices]

    def read(self) -> Facts:
        """Seconds for all slices, and of processor time."""
        cpu, began = time.process_time(), time.perf_counter()
        found = [xxh3_64_intdigest(view) for view in self._slices]
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        facts: Facts = {"seconds": seconds, "cpu": cpu, "bytes": len(self._memory)}
        return facts | {"verified": found == self._known}


def run_checksum(
    settings: TransferBenchSettings, spec: Checksum, number: int
) -> list[Found]:
    """Once to warm up and once by the clock."""
    with workers("checksum") as (worker,):
        worker("begin", size=settings.total_bytes, slice_bytes=spec.slice_bytes)
        worker("read")
        facts = worker("read")
    return [
        Found(
            shape="contiguous",
            direction="write",
            gbps=facts["bytes"] * 8 / facts["seconds"] / 1e9,
            cpu_seconds_per_gb=facts["cpu"] / facts["bytes"] * 1e9,
            verified=facts["verified"],
        )
    ]
