"""How a transfer begins over any link: what is asked for is checked first."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from prefillshare.transfer.base import MAX_NOTE_BYTES, Access, Batch, Grant, Region

T = TypeVar("T")


class Beginning(ABC, Generic[T]):
    """`read` and `write` of a `Link` whose transfers are `T`."""

    @abstractmethod
    def begin(
        self,
        access: Access,
        grant: Grant,
        region: Region,
        batch: Batch | None,
        timeout: float,
        note: bytes,
    ) -> T:
        """Begin a transfer that the grant allows; raises as `Link.read`."""

    def read(
        self,
        grant: Grant,
        into: Region,
        batch: Batch | None = None,
        *,
        timeout: float,
        note: bytes = b"",
    ) -> T:
        """See `Link.read`."""
        check_asked(grant, "read", timeout, note)
        return self.begin("read", grant, into, batch, timeout, note)

    def write(
        self,
        grant: Grant,
        source: Region,
        batch: Batch | None = None,
        *,
        timeout: float,
        note: bytes = b"",
    ) -> T:
        """See `Link.write`."""
        check_asked(grant, "write", timeout, note)
        return self.begin("write", grant, source, batch, timeout, note)


def check_asked(grant: Grant, access: Access, timeout: float, note: bytes) -> None:
    """Raise `ValueError` for what no transport could do."""
    if grant.access != access:
        raise ValueError(f"the grant is for {grant.access}, not for {access}")
    if len(note) > MAX_NOTE_BYTES:
        raise ValueError(f"a note of {len(note)} bytes exceeds {MAX_NOTE_BYTES}")
    if not 0 < timeout <= threading.TIMEOUT_MAX:
        raise ValueError(f"timeout is {timeout} seconds, it must be above 0")
