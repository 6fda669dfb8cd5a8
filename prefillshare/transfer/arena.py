"""Memory that processes of one host share, without a name in the file system.

The kernel frees it with the last descriptor and mapping, `kill -9` included, so nothing
is left behind. Writers attach first; `seal` then makes the kernel refuse every further
writable mapping, so a reader cannot change a byte even by mistake.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Sequence

import numpy as np

from prefillshare.errors import CapacityError, TransferIntegrityError

_PAGE = mmap.PAGESIZE
# Python 3.13 is the first to name it; see fcntl(2).
_F_SEAL_FUTURE_WRITE = 0x10
_FIXED = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


class Arena:
    """`size` bytes of zeros, or those of another process's arena.

    `Arena(size)` makes one, sealed against writers to come unless `writers` says that
    more will attach; `Arena.attach(descriptor)` maps one to write to it. Raises
    `CapacityError` if there is no such memory.
    """

    def __init__(self, size: int, *, writers: bool = False) -> None:
        if size < 1:
            raise ValueError(f"an arena of {size} bytes; pass one byte or more")
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        self._open(os.memfd_create("prefillshare", flags), size)
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, _FIXED)
        if not writers:
            self.seal()

    @classmethod
    def attach(cls, descriptor: int) -> Arena:
        """Map another's arena to write to it; the descriptor is copied.

        Raises `PermissionError` if it is sealed, `TransferIntegrityError` if it is not
        an arena.
        """
        size = check_arena(descriptor)
        arena = cls.__new__(cls)
        arena._open(os.dup(descriptor), size, resize=False)
        return arena

    def _open(self, descriptor: int, size: int, resize: bool = True) -> None:
        self.descriptor = descriptor
        try:
            if resize:
                os.ftruncate(descriptor, size)
            self._map = mmap.mmap(descriptor, size)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, PermissionError):
                raise
            raise CapacityError(
                f"no shared memory of {size} bytes: {error}; ask for less, or free some"
            ) from error
        self.size = size
        self.view = memoryview(self._map)
        self._address = _address(self.view)

    def seal(self) -> None:
        """From here on, nobody maps it to write to it; mappings that exist remain."""
        seals = _F_SEAL_FUTURE_WRITE | fcntl.F_SEAL_SEAL
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, seals)

    def offset_of(self, buffer: memoryview) -> int:
        """Where a buffer lies in the arena; `ValueError` if it does not."""
        offset = _address(buffer) - self._address
        if not 0 <= offset <= self.size - buffer.nbytes:
            raise ValueError("the memory is not in the arena; take a part of its view")
        return offset

    def reader(self) -> int:
        """A new descriptor that can only be read from, for another process."""
        path = f"/proc/self/fd/{self.descriptor}"
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Unmap it; `BufferError` while parts of its view are in use."""
        self.view.release()
        self._map.close()
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class Window:
    """Bytes [first, last) of an arena, mapped to be read only.

    Raises `TransferIntegrityError` if the descriptor is not that of an arena that has
    these bytes.
    """

    def __init__(self, descriptor: int, first: int, last: int) -> None:
        if last > (size := check_arena(descriptor)):
            raise TransferIntegrityError(f"bytes up to {last} of an arena of {size}")
        self.first = first
        begin = first // _PAGE * _PAGE
        self._skew = first - begin
        length = last - begin
        self._map = mmap.mmap(descriptor, length, prot=mmap.PROT_READ, offset=begin)
        self._whole = memoryview(self._map)
        self.view = self._whole[self._skew :]

    def close(self) -> None:
        """Unmap it; `BufferError` while parts of its view are in use."""
        self.close_all([])

    def close_all(self, parts: Sequence[memoryview]) -> None:
        """Release parts of the view, and unmap; `BufferError` if others are in use."""
        for part in [*parts, self.view, self._whole]:
            part.release()
        self._map.close()


def check_arena(descriptor: int) -> int:
    """Bytes of an arena; `TransferIntegrityError` for another descriptor.

    Memory that could shrink would kill whoever reads it beyond its end.
    """
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError as error:
        raise TransferIntegrityError(f"not shared memory: {error}") from error
    if seals & _FIXED != _FIXED:
        raise TransferIntegrityError("shared memory that is not fixed in size")
    return os.fstat(descriptor).st_size


def _address(buffer: memoryview) -> int:
    return int(np.frombuffer(buffer, np.uint8).ctypes.data)
