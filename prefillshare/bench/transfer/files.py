"""The engine over files: one file written from its first byte to its last, and read."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from prefillshare.bench.transfer.found import Found
from prefillshare.bench.transfer.orders import Worker
from prefillshare.bench.transfer.processes import Ask, Facts, workers
from prefillshare.bench.transfer.programs import NotRun
from prefillshare.bench.transfer.settings import TransferBenchSettings
from prefillshare.bench.transfer.shapes import buffer, check, fill, piece
from prefillshare.transfer.base import Access
from prefillshare.transfer.file import FileEngine

NAME = "sequential"


class FileWorker(Worker):
    """Has the file, and memory of its size."""

    def __init__(self, folder: str, size: int, timeout: float) -> None:
        self._path, self._timeout = Path(folder) / NAME, timeout
        self._engine = FileEngine()
        self._file = self._engine.open(self._path, size)
        self._memory = buffer(size)
        self._region = self._engine.register(self._memory.data)
        self._link = self._engine.connect(self._engine.address)
        self._whole = piece("sequential", size)

    def write(self, seed: int) -> Facts:
        """Fill the memory by a seed, and write it until it is on the disk."""
        fill(self._memory, seed)
        return self._move("write")

    def read(self, seed: int) -> Facts:
        """Read all of the file, and compare it with the bytes of the seed."""
        self._memory[:] = 0
        # Where the page cache cannot be passed by, it must not answer.
        descriptor = os.open(self._path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
        found = self._move("read")
        return found | {"verified": check(self._memory, self._whole, seed)}

    def _move(self, access: Access) -> Facts:
        size, direct = self._whole.size, self._file.stored.direct_bytes
        grant = self._engine.grant(
            self._file,
            np.array([[0, size]]),
            access,
            lambda _: None,
            lease_seconds=self._timeout,
        )
        move = self._link.write if access == "write" else self._link.read
        cpu, began = time.process_time(), time.perf_counter()
        move(grant, self._region, self._whole.batch(), timeout=self._timeout).wait()
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        direct = self._file.stored.direct_bytes - direct
        return {"seconds": seconds, "cpu": cpu, "direct": direct == size}


@contextmanager
def room(settings: TransferBenchSettings) -> Iterator[Path]:
    """An empty folder on the disk of the settings; `NotRun` if that is too full."""
    with tempfile.TemporaryDirectory(dir=settings.folder, prefix="file-") as folder:
        free, need = shutil.disk_usage(folder).free, 2 * settings.total_bytes
        if free < need:
            raise NotRun(
                f"the folder of files has {free:,} bytes free, fewer than {need:,}; "
                "set another folder, or fewer total_bytes"
            )
        yield Path(folder)


def run_files(settings: TransferBenchSettings, number: int) -> list[Found]:
    """One write to warm up, and by the clock one over it, and one read."""
    size, seed = settings.total_bytes, 1 + number * 100
    with room(settings) as folder, workers("file") as (worker,):
        timeout = settings.timeout_seconds
        worker("begin", folder=str(folder), size=size, timeout=timeout)
        return list(_both(worker, size, seed))


def _both(worker: Ask, size: int, seed: int) -> Iterator[Found]:
    worker("write", seed=seed)
    written = worker("write", seed=seed + 1)
    read = worker("read", seed=seed + 1)
    directions: list[tuple[Access, Facts]] = [("write", written), ("read", read)]
    for direction, facts in directions:
        yield Found(
            shape="sequential",
            direction=direction,
            gbps=size * 8 / facts["seconds"] / 1e9,
            cpu_seconds_per_gb=facts["cpu"] / size * 1e9,
            verified=read["verified"],
            direct=facts["direct"],
        )
