"""A file engine on a folder, with memory to write from and to read to."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np

from prefillshare.transfer.base import Batch, Link
from prefillshare.transfer.file import FileEngine, FileRegion
from tests.transfer.pairs import SECONDS, Bytes, Ends

SIZE = 1 << 18
PAGE = 4096
SLICE = 1 << 14
WHOLE = (0, 0, SIZE)


def aligned(size: int) -> Bytes:
    """Zeros at the beginning of a page."""
    return np.frombuffer(mmap.mmap(-1, size), np.uint8)


class Disk:
    """An engine on a folder, with memory to write from and to read to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.engine = FileEngine(slice_bytes=SLICE)
        self.link: Link = self.engine.connect(self.engine.address)
        self.memory = aligned(SIZE)
        self.region = self.engine.register(self.memory.data)

    @property
    def path(self) -> Path:
        return self.folder / "blocks"

    def open(self, size: int | None = SIZE) -> FileRegion:
        return self.engine.open(self.path, size)

    def write(self, file: FileRegion, *rows: tuple[int, int, int]) -> None:
        """Write rows (memory, file, length)."""
        whole = np.array([[0, file.size]])
        grant = self.engine.grant(file, whole, "write", Ends())
        batch: Batch = np.array(rows, np.int64)
        self.link.write(grant, self.region, batch, timeout=SECONDS).wait()

    def read(self, file: FileRegion, *rows: tuple[int, int, int]) -> Bytes:
        """Memory that was zeros, with rows (memory, file, length) read into it."""
        self.memory[:] = 0
        whole = np.array([[0, file.size]])
        grant = self.engine.grant(file, whole, "read", Ends())
        batch: Batch = np.array(rows, np.int64)
        self.link.read(grant, self.region, batch, timeout=SECONDS).wait()
        return self.memory.copy()

    def flip(self, offset: int) -> None:
        """Change a byte of the file."""
        with self.path.open("r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 1]))
