"""Two engines with a man between them, and transfers that are checked to the byte."""

from __future__ import annotations

import contextlib
import gc
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from prefillshare.transfer.base import (
    Access,
    Batch,
    Grant,
    GrantEnd,
    Outcome,
    Region,
    Transfer,
    TransferStats,
)
from prefillshare.transfer.secure.contexts import SecuritySettings
from prefillshare.transfer.tcp.engine import TcpEngine
from prefillshare.transfer.tcp.link import TcpLink
from prefillshare.transfer.tcp.settings import TcpSettings
from prefillshare.transfer.tcp.sockets import format_address
from tests.transfer.networked import security
from tests.transfer.pairs import SECONDS, Ends, noise, nothing_left_behind, until
from tests.transfer.tcp.middleman import Middleman, middleman

SETTINGS = TcpSettings(streams=4, slice_bytes=1 << 14, retry_seconds=0.01)
SIZE = 1 << 21


@dataclass(eq=False)
class Move:
    """A transfer of a whole grant; `near` and `far` are the two memories."""

    grant: Grant
    near: bytearray
    far: bytearray
    ends: Ends
    before: bytes
    started: list[Transfer] = field(default_factory=list)

    @property
    def transfer(self) -> Transfer:
        """The one that was started last."""
        return self.started[-1]

    def check(self) -> TransferStats:
        """It ends well: every byte is in place, and the owner is told so, once."""
        stats = self.transfer.wait(SECONDS)
        assert self.near == self.far
        # What was sent is what there was; what was received differs from it.
        assert bytes(self.near) == self.before
        assert stats.bytes == len(self.before)
        assert self.ends.one() == GrantEnd(Outcome.DONE, b"note", len(self.before))
        return stats


class Rig:
    """A lender and a mover, whose link goes through `man`."""

    def __init__(
        self, lender: TcpEngine, mover: TcpEngine, link: TcpLink, man: Middleman
    ) -> None:
        self.lender, self.mover, self.link, self.man = lender, mover, link, man
        self._memories: list[bytearray] = []
        self._regions: list[tuple[TcpEngine, Region]] = []

    def lend(
        self, access: Access, size: int = SIZE, seconds: float = SECONDS
    ) -> tuple[Grant, bytearray, bytes, Ends]:
        """Grant memory: zeros to write to, noise to read; and what there will be."""
        data = noise(size).tobytes()
        far = self._memory(data if access == "read" else bytes(size))
        ends, region = Ends(), self._region(self.lender, far)
        whole = np.array([[0, size]])
        grant = self.lender.grant(region, whole, access, ends, seconds)
        return grant, far, data, ends

    def prepare(self, access: Access, size: int = SIZE) -> Move:
        """Lend, and have memory here."""
        grant, far, data, ends = self.lend(access, size)
        near = self._memory(bytes(size) if access == "read" else data)
        return Move(grant, near, far, ends, data)

    def start(self, move: Move, *, fed: bool = False, timeout: float = SECONDS) -> Move:
        """Begin to move all of it; if it is `fed`, `batch` is left to the caller."""
        region = self._region(self.mover, move.near)
        begin = self.link.read if move.grant.access == "read" else self.link.write
        whole = None if fed else batch(len(move.near))
        made = begin(move.grant, region, whole, timeout=timeout, note=b"note")
        move.started.append(made)
        return move

    def move(self, access: Access, size: int = SIZE) -> Move:
        """Lend, and begin to move all of it."""
        return self.start(self.prepare(access, size))

    def works(self) -> None:
        """Both ways, large and small: the pair is as good as new."""
        for size in (SIZE, 1000):
            for access in ("read", "write"):
                self.move(access, size).check()

    def release(self) -> None:
        """Deregister everything; nothing of the engines, which go on, may hold it."""
        while self._regions:
            engine, region = self._regions.pop()
            engine.deregister(region)
            del region
        gc.collect()
        until(lambda: all(_is_free(memory) for memory in self._memories))

    def _memory(self, data: bytes) -> bytearray:
        made = bytearray(data)
        self._memories.append(made)
        return made

    def _region(self, engine: TcpEngine, memory: bytearray) -> Region:
        region = engine.register(memoryview(memory))
        self._regions.append((engine, region))
        return region


def _is_free(memory: bytearray) -> bool:
    # It can only grow while nothing sees it.
    try:
        memory.append(0)
    except BufferError:
        gc.collect()
        return False
    return True


def batch(size: int, first: int = 0) -> Batch:
    """All of it, in one piece."""
    return np.array([[first, first, size]])


@contextmanager
def rig(
    folder: Path,
    *,
    sealed: bool = False,
    settings: TcpSettings = SETTINGS,
    lends: TcpSettings | None = None,
) -> Iterator[Rig]:
    """Plain, or with certificates of two sites; nothing may be left of it.

    `lends` are the lender's settings, if they are others than the mover's.
    """
    keys = [security(folder, n, f"site-{n}") if sealed else None for n in ("a", "b")]
    with nothing_left_behind():
        lender = TcpEngine(settings=lends or settings, security=keys[0])
        mover = TcpEngine(settings=settings, security=keys[1])
        with middleman(lender.address) as man:
            try:
                made = Rig(lender, mover, mover.connect(man.address), man)
                yield made
                made.release()
            finally:
                mover.close()
                lender.close()


@contextmanager
def engine(
    keys: SecuritySettings | None, settings: TcpSettings = SETTINGS
) -> Iterator[TcpEngine]:
    """Ended after the block."""
    made = TcpEngine(settings=settings, security=keys)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def served(greet: Callable[[socket.socket], None]) -> Iterator[str]:
    """The address of a server of something else, which greets whoever comes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def run() -> None:
            while True:
                try:
                    sock, _ = server.accept()
                except OSError:
                    return
                # Whoever comes may leave at once.
                with sock, contextlib.suppress(OSError):
                    greet(sock)
                    sock.shutdown(socket.SHUT_WR)
                    while sock.recv(1 << 16):
                        pass

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield format_address(*server.getsockname())
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
