"""An engine whose granted regions are files."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from prefillshare.errors import TransferBroken, TransferError
from prefillshare.transfer.base import Access, Grant, GrantEnd, Ranges, Region
from prefillshare.transfer.fed import FedTransfer
from prefillshare.transfer.file import move
from prefillshare.transfer.file.stored import StoredFile
from prefillshare.transfer.local import (
    LocalEngine,
    LocalLink,
    Mover,
    check_identity,
    lent,
)
from prefillshare.transfer.ranges import Pieces, check_within

DEFAULT_SLICE_BYTES = 128 << 10
_PREFIX = "file://"
_engines: dict[str, FileEngine] = {}
_engines_lock = threading.Lock()


@dataclass(frozen=True, eq=False)
class FileRegion(Region):
    """A file that an engine may move to and from memory."""

    stored: StoredFile = field(repr=False)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.stored.size


class FilePieces(Pieces):
    """Ranges of a file."""

    def __init__(self, stored: StoredFile, ranges: Ranges) -> None:
        super().__init__(memoryview(b""), ranges)
        self.stored = stored


class FileEngine(LocalEngine):
    """An `Engine` that lends files, to engines of its process, itself included.

    `register` takes memory to move from and to, `open` files to grant. What is written
    is on the disk, with checksums per slice (at most `slice_bytes` of one range) beside
    it, before the transfer is over, and is verified when it is read. Where offsets,
    lengths and memory are multiples of 4096 bytes, and the file system has it, the page
    cache is passed by. `threads` system calls are under way at a time. `clock` measures
    leases, in seconds.
    """

    def __init__(
        self,
        *,
        slice_bytes: int = DEFAULT_SLICE_BYTES,
        threads: int = 8,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(clock)
        self.slice_bytes = slice_bytes
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="file")
        with _engines_lock:
            _engines[self.address] = self

    @property
    def address(self) -> str:
        """See `Engine.address`."""
        return _PREFIX + self.engine_id

    def open(
        self, path: Path, size: int | None = None, *, readonly: bool = False
    ) -> FileRegion:
        """Make a file movable; with a `size` in bytes, it is made if it is not there.

        `deregister` closes it. Raises `TransferIntegrityError` for a file that was
        truncated or was not written by such an engine, and `TransferError` for one
        that cannot be opened so.
        """
        stored = StoredFile(path, size, readonly)
        try:
            return self._keep(
                lambda number: FileRegion(number, memoryview(b""), stored)
            )
        except BaseException:
            stored.close()
            raise

    def deregister(self, region: Region) -> None:
        """See `Engine.deregister`."""
        super().deregister(region)
        if isinstance(region, FileRegion):
            region.stored.close()

    def grant(
        self,
        region: Region,
        ranges: Ranges,
        access: Access,
        on_end: Callable[[GrantEnd], None],
        lease_seconds: float = 60.0,
    ) -> Grant:
        """See `Engine.grant`; `ValueError` for memory, `TransferError` to write to a
        file that was opened to be read only.
        """
        if not isinstance(region, FileRegion):
            raise ValueError("a file engine grants files; `open` one")
        if access == "write" and region.stored.readonly:
            raise TransferError(
                f"{region.stored.path} was opened to be read only; open it otherwise"
            )
        return super().grant(region, ranges, access, on_end, lease_seconds)

    def pieces(self, region: Region, ranges: Ranges) -> Pieces:
        """See `LocalEngine.pieces`."""
        assert isinstance(region, FileRegion)
        check_within(ranges, region.size, "the file")
        return FilePieces(region.stored, ranges)

    def connect(self, address: str, timeout: float = 10.0) -> FileLink:
        """See `Engine.connect`."""
        _find(address)
        return FileLink(self, address)

    def close(self) -> None:
        """See `Engine.close`."""
        with _engines_lock:
            _engines.pop(self.address, None)
        super().close()
        self.pool.shutdown()
        for region in list(self._regions.values()):
            if isinstance(region, FileRegion):
                region.stored.close()


class FileLink(LocalLink):
    """A `Link` between memory and the files of an engine."""

    def mover(self, grant: Grant) -> Mover:
        """See `LocalLink.mover`."""
        peer = _find(self.address)
        check_identity(grant, peer.engine_id)
        return lambda transfer: _move(transfer, peer)


def _find(address: str) -> FileEngine:
    if not address.startswith(_PREFIX):
        raise ValueError(f"address {address!r} is not like {_PREFIX}<engine id>")
    with _engines_lock:
        if found := _engines.get(address):
            return found
    raise TransferBroken(f"{address}: no engine of this process, or it was closed")


def _move(transfer: FedTransfer, peer: FileEngine) -> None:
    with lent(peer.table, transfer) as loan:
        pieces = loan.pieces
        assert isinstance(pieces, FilePieces)
        if transfer.grant.access == "read":
            move.read(transfer, pieces.stored, pieces, peer.pool)
        else:
            move.write(transfer, pieces.stored, pieces, peer.pool, peer.slice_bytes)
