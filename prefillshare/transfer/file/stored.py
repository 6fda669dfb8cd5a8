"""One open file: its bytes, directly or through the page cache, and its checksums."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from xxhash import xxh3_64_intdigest

from prefillshare.errors import (
    TransferBroken,
    TransferError,
    TransferIntegrityError,
)
from prefillshare.transfer.base import Ranges
from prefillshare.transfer.file.sums import Sums, sync_folder
from prefillshare.transfer.rows import rest

# What direct I/O wants of offsets, lengths and memory; no device asks for more.
ALIGNMENT = 4096


class StoredFile:
    """A file at `path`, made with `size` bytes if that is given and it is not there.

    Only one process at a time has it open to write, and none then to read. Raises
    `TransferIntegrityError` for a file that is truncated or has no checksums beside
    it, `TransferError` for one that cannot be opened so, with the remedy.
    """

    def __init__(self, path: Path, size: int | None, readonly: bool) -> None:
        self.path = path
        self.readonly = readonly
        self._lock = threading.Lock()
        self._updating = threading.Lock()
        self.direct_bytes = 0
        self._beside = path.with_name(path.name + ".sums")
        made = size is not None and not path.exists()
        flags = (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC
        try:
            self._descriptor = os.open(path, flags | (os.O_CREAT if made else 0), 0o600)
        except OSError as error:
            raise named(error, path) from error
        self._direct = -1
        try:
            self._claim()
            if made:
                assert size is not None
                self._make(size)
            self.size = os.fstat(self._descriptor).st_size
            self._load(size)
            self._direct = _direct(path, flags)
        except BaseException as error:
            self.close()
            if made:
                path.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise named(error, path) from error
            raise

    def _claim(self) -> None:
        kind = fcntl.LOCK_SH if self.readonly else fcntl.LOCK_EX
        try:
            fcntl.flock(self._descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TransferError(
                f"{self.path} is open elsewhere, and one of both writes to it; close "
                "it there, or open it to be read only in both places"
            ) from error

    def _make(self, size: int) -> None:
        # Space that is not there is missed now, rather than in a transfer.
        os.posix_fallocate(self._descriptor, 0, size)
        Sums.empty().save(self._beside, size)
        sync_folder(self.path.parent)

    def _load(self, size: int | None) -> None:
        try:
            self.sums, whole = Sums.load(self._beside)
        except FileNotFoundError as error:
            raise TransferIntegrityError(
                f"{self._beside} is missing: {self.path} cannot be verified; write it "
                "through this engine"
            ) from error
        if whole != self.size or size not in (None, whole):
            raise TransferIntegrityError(
                f"{self.path} has {self.size} bytes, not the {whole} that its "
                f"checksums are for, or not {size}: truncated or replaced; discard it"
            )

    def read(self, offset: int, views: Sequence[memoryview], direct: bool) -> None:
        """Fill views with the bytes from `offset` on."""
        left = list(views)
        while left:
            got = self._try(os.preadv, left, offset, direct)
            if not got:
                raise TransferIntegrityError(
                    f"{self.path} ends at byte {offset}, it should have {self.size}: "
                    "it was truncated; discard it"
                )
            offset, left, direct = offset + got, rest(left, got), False

    def write(self, offset: int, views: Sequence[memoryview], direct: bool) -> None:
        """Put the bytes of views from `offset` on; `sync` makes them last."""
        left = list(views)
        while left:
            put = self._try(os.pwritev, left, offset, direct)
            offset, left, direct = offset + put, rest(left, put), False

    def _try(
        self,
        call: object,
        views: list[memoryview],
        offset: int,
        direct: bool,
    ) -> int:
        assert callable(call)
        if direct and self._direct >= 0:
            try:
                done = int(call(self._direct, views, offset))
                with self._lock:
                    self.direct_bytes += done
                return done
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise named(error, self.path) from error
                # It was opened so, and yet cannot: some file systems find out late.
                direct = False
        try:
            return int(call(self._descriptor, views, offset))
        except OSError as error:
            raise named(error, self.path) from error

    def extent(self, sums: Sums, index: int) -> memoryview:
        """The verified bytes of one extent."""
        offset, length = sums.ranges[index].tolist()
        span = -(-length // ALIGNMENT) * ALIGNMENT
        # Anonymous mappings are aligned to pages.
        data = memoryview(mmap.mmap(-1, span))[:length]
        self.read(offset, [data], not (offset | length) % ALIGNMENT)
        if xxh3_64_intdigest(data) != sums.digests[index]:
            raise self.corrupt(offset, length)
        return data

    def corrupt(self, offset: int, length: int) -> TransferIntegrityError:
        """What to raise for bytes that are not those that were written."""
        return TransferIntegrityError(
            f"{self.path}: the {length} bytes at {offset} do not have the checksum "
            "that they were written with; discard them"
        )

    def forget(self, ranges: Ranges) -> None:
        """Count bytes as not written, before they are: they may be left half-way."""
        with self._updating:
            after = self._without(ranges)
            if (
                len(after) != len(self.sums)
                or (after.digests != self.sums.digests).any()
            ):
                self._replace(after)

    def keep(self, more: Sums) -> None:
        """Make written bytes last, and then their checksums."""
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            raise named(error, self.path) from error
        with self._updating:
            # Another transfer may have written there in between.
            after = self._without(more.ranges)
            self._replace(after.joined(more.ranges, more.digests))

    def _without(self, ranges: Ranges) -> Sums:
        sums = self.sums
        return sums.without(ranges, lambda index: self.extent(sums, index))

    def _replace(self, sums: Sums) -> None:
        try:
            sums.save(self._beside, self.size)
        except OSError as error:
            raise named(error, self._beside) from error
        self.sums = sums

    def close(self) -> None:
        """Close the descriptors; may be repeated."""
        for descriptor in (self._descriptor, self._direct):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptor = self._direct = -1


def named(error: OSError, path: Path) -> TransferError:
    """The project's error for one of the system's."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return TransferError(f"{path}: no space left; free some, or use another disk")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return TransferError(
            f"{path} cannot be written to or read: {error.strerror}; change its mode, "
            "or open it to be read only"
        )
    if error.errno == errno.ENOENT:
        return TransferError(f"{path} does not exist; pass a size to make it")
    return TransferBroken(f"{path}: {error}")


def _direct(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_DIRECT)
    except OSError:
        return -1
