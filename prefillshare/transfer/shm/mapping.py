"""Memory of another process, seen where it lies."""

from __future__ import annotations

import select
from types import TracebackType

import numpy as np

from prefillshare.errors import TransferError
from prefillshare.transfer.arena import Window
from prefillshare.transfer.shm import wire
from prefillshare.transfer.shm.connect import until
from prefillshare.transfer.shm.wire import Channel, Kind


class Mapping:
    """Granted pieces, seen where they lie, until `release`.

    `views` are read-only, one per piece, neighbours joined. The owner is told of the
    end of the grant at `release`, or when this process is gone, however it went. Use
    it as a context manager, or call `release`.
    """

    def __init__(self, channel: Channel, reply: wire.Reply, note: bytes) -> None:
        assert reply.ranges is not None
        self._channel = channel
        self._note = note
        first = int(reply.ranges[:, 0].min())
        self._window = Window(
            reply.descriptor, first, int(reply.ranges.sum(axis=1).max())
        )
        rows = (reply.ranges - np.array([first, 0])).tolist()
        self.views: list[memoryview] = [self._window.view[a : a + n] for a, n in rows]
        self._size = int(reply.ranges[:, 1].sum())

    @property
    def wanted(self) -> bool:
        """Whether the owner, or its end, asks for the memory back: release soon."""
        return bool(self.views) and self._channel.ready(select.POLLIN, 0)

    def release(self) -> None:
        """Unmap, and give the memory back. May be repeated.

        Raises `BufferError`, and keeps the memory, while anything made of the views is
        in use: what was given back may change at any time.
        """
        self._window.close_all(self.views)
        self.views = []
        head = wire.MESSAGE.pack(Kind.DONE, len(self._note), self._size)
        try:
            self._channel.send([head, self._note], until(1.0, "the owner"))
        except TransferError:
            # Then the owner is gone, and there is nobody to tell.
            pass
        finally:
            self._channel.close()

    def __enter__(self) -> Mapping:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
