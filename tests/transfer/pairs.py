"""Two engines and the link between them, over each transport, for one suite."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from prefillshare.transfer.arena import Arena
from prefillshare.transfer.base import (
    Access,
    Engine,
    Grant,
    GrantEnd,
    Link,
    Ranges,
    Region,
)
from prefillshare.transfer.file import FileEngine, FileRegion
from prefillshare.transfer.memory import MemoryNetwork
from prefillshare.transfer.shm import ShmEngine

Bytes = NDArray[np.uint8]
SECONDS = 20.0
# For transfers that something else must end, long before.
LONG = 60.0
# It outlives the tests, since regions of it may be held until pytest forgets them.
ARENA = Arena(8 << 20)


class Clock:
    """Time for leases, which stands until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Ends:
    """An `on_end` that keeps what it is told, and on which threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.told: list[GrantEnd] = []
        self.threads: list[threading.Thread] = []

    def __call__(self, end: GrantEnd) -> None:
        with self._changed:
            self.told.append(end)
            self.threads.append(threading.current_thread())
            self._changed.notify_all()

    def one(self) -> GrantEnd:
        """Wait for the first, which must be the only one."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.told, SECONDS)
            (end,) = self.told
            return end


@dataclass
class Pair:
    """A lender and a mover, as they come out of one transport.

    `make` returns a region of the lender with given bytes, `held` the bytes that a
    region has now; `recheck` has the lender look at its leases.
    """

    lender: Engine
    mover: Engine
    link: Link
    clock: Clock
    make: Callable[[Bytes], Region]
    held: Callable[[Region], Bytes]
    recheck: Callable[[], None]
    ends: Ends = field(default_factory=Ends)

    def target(self, size: int) -> tuple[Bytes, Region]:
        """Zeros on the mover's side, and the region that they are."""
        memory = np.zeros(size, np.uint8)
        return memory, self.mover.register(memory.data)

    def near(self, data: Bytes) -> Region:
        """A region on the mover's side that holds these bytes."""
        memory, region = self.target(len(data))
        memory[:] = data
        return region

    def grant(self, region: Region, ranges: object, access: Access = "read") -> Grant:
        """Lend ranges of a region; `ends` is told."""
        asked: Ranges = np.array(ranges, np.int64)
        return self.lender.grant(region, asked, access, self.ends)

    def leave(self) -> None:
        """Have what else listens for the lender, which is closed, go too."""

    def expire(self) -> None:
        """Let every lease run out."""
        self.clock.now += 1e6
        self.recheck()


def noise(size: int, seed: int = 0) -> Bytes:
    """Random bytes, none of them zero."""
    return np.random.default_rng(seed).integers(1, 256, size, dtype=np.uint8)


def until(holds: Callable[[], bool]) -> None:
    """Wait for what another thread is about to bring about, and never in vain."""
    tick = threading.Event()
    for _ in range(int(SECONDS * 1000)):
        if holds():
            return
        tick.wait(0.001)
    raise AssertionError("it did not come about")


@contextmanager
def no_thread(name: str) -> Iterator[None]:
    """No thread of that name can be started."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == name:
            raise RuntimeError("can't start new thread")
        start(thread)

    with patch.object(threading.Thread, "start", refuse):
        yield


@contextmanager
def at_once() -> Iterator[None]:
    """Fail if what ends the block may have been the time of a transfer, `LONG`."""
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < LONG / 3


def _of_memory(region: Region) -> Bytes:
    return np.frombuffer(region.memory, np.uint8).copy()


@contextmanager
def memory_pair(_: Path) -> Iterator[Pair]:
    clock = Clock()
    network = MemoryNetwork(slice_bytes=4096, clock=clock)
    lender, mover = network.engine(), network.engine()

    def make(data: Bytes) -> Region:
        return lender.register(data.copy().data)

    link = mover.connect(lender.address)
    recheck = lender.table.recheck
    yield Pair(lender, mover, link, clock, make, _of_memory, recheck)


@contextmanager
def shm_pair(_: Path) -> Iterator[Pair]:
    clock = Clock()
    lender, mover = ShmEngine(ARENA, clock=clock), ShmEngine()
    used = 0

    def make(data: Bytes) -> Region:
        nonlocal used
        region = lender.register(ARENA.view[used : used + len(data)])
        region.memory[:] = data.data
        # So that most regions begin within a page.
        used += len(data) + 100
        return region

    link = mover.connect(lender.address)
    recheck = lender.table.recheck
    yield Pair(lender, mover, link, clock, make, _of_memory, recheck)


@contextmanager
def file_pair(folder: Path) -> Iterator[Pair]:
    clock = Clock()
    lender, mover = FileEngine(clock=clock, slice_bytes=8192), FileEngine()
    link = mover.connect(lender.address)

    def make(data: Bytes) -> Region:
        count = len(list(folder.iterdir()))
        region = lender.open(folder / f"{count}.bin", len(data))
        whole = np.array([[0, len(data)]])
        grant = lender.grant(region, whole, "write", lambda _: None)
        source = mover.register(data.copy().data)
        batch = np.array([[0, 0, len(data)]])
        link.write(grant, source, batch, timeout=SECONDS).wait()
        mover.deregister(source)
        return region

    def held(region: Region) -> Bytes:
        assert isinstance(region, FileRegion)
        return np.fromfile(region.stored.path, np.uint8)

    recheck = lender.table.recheck
    yield Pair(lender, mover, link, clock, make, held, recheck)


PAIRS = {"memory": memory_pair, "shm": shm_pair, "file": file_pair}


@contextmanager
def nothing_left_behind(but: str = "nothing") -> Iterator[None]:
    """Fail if a thread or a descriptor outlives the block, but for those on `but`."""
    # Only what the block makes is looked at, or it would take half a second.
    gc.freeze()
    threads, descriptors = set(threading.enumerate()), _descriptors()
    try:
        yield
        gc.collect()
    finally:
        gc.unfreeze()
    assert set(threading.enumerate()) <= threads
    left = _descriptors() - descriptors
    assert {name for name in left if but not in name} == set()


def _descriptors() -> set[str]:
    """The open descriptors, each with what it is open on."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        except FileNotFoundError:
            # It was that of the listing itself.
            continue
    return found
