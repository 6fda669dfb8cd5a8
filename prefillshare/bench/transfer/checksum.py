"""What the engine's checksum does on one core, with nothing else to do."""

from __future__ import annotations

from xxhash import xxh3_64_intdigest

from prefillshare.bench.transfer.found import Found
from prefillshare.bench.transfer.one_core import SliceWorker
from prefillshare.bench.transfer.processes import Facts, workers
from prefillshare.bench.transfer.settings import TransferBenchSettings
from prefillshare.bench.transfer.specs import Checksum


class ChecksumWorker(SliceWorker):
    """Makes a checksum of each slice, as a sender does."""

    def __init__(self, size: int, slice_bytes: int) -> None:
        super().__init__(size, slice_bytes)
        self._known = [xxh3_64_intdigest(view) for view in self.slices]

    def read(self) -> Facts:
        """Seconds for all slices, and of processor time."""
        found: list[int] = []
        facts = self.timed(lambda _, view: found.append(xxh3_64_intdigest(view)))
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
