"""Who says to a lender frame by frame, and slice by slice, what a mover would."""

from __future__ import annotations

import itertools

import numpy as np

from prefillshare.transfer.base import Access, Grant
from prefillshare.transfer.secure.sealing import Checksum
from prefillshare.transfer.tcp import dial, frames
from prefillshare.transfer.tcp.destination import Destination
from prefillshare.transfer.tcp.engine import TcpEngine
from prefillshare.transfer.tcp.slices import SliceHead
from prefillshare.transfer.timer import Timer
from tests.transfer.pairs import SECONDS, Ends
from tests.transfer.tcp.rig import SETTINGS

SIZE = 10_000
# Longer than a test: a stream that is at the memory is not broken off.
LONG = SETTINGS.model_copy(
    update={"grace_seconds": 5.0, "dead_seconds": 600.0, "streams": 1}
)


class Lent:
    """Memory of a lender, and what its owner is told."""

    def __init__(self, lender: TcpEngine, access: Access) -> None:
        self.memory, self.ends = bytearray(SIZE), Ends()
        self.region = lender.register(memoryview(self.memory))
        whole = np.array([[0, SIZE]])
        self.grant = lender.grant(self.region, whole, access, self.ends)


class Forger:
    """Says frame by frame, and slice by slice, what a mover would."""

    def __init__(self, lender: TcpEngine) -> None:
        self._timer, to = Timer(), Destination(lender.address, None, secure=False)
        self._timer.start()
        dialler = dial.Dialler(bytes(16), to, LONG, None, self._timer)
        self._channel, agreed = dialler.dial(SECONDS)
        self.stream = dialler.dial_stream(agreed, 1, SECONDS)
        self._sent, self._heard = itertools.count(1), itertools.count(1)

    def send(self, *several: frames.Frame) -> None:
        """Frames, in this order."""
        self._channel.send(b"".join(f.encode(next(self._sent)) for f in several))

    def hear(self) -> frames.Frame:
        """The next frame that is not a question whether it is there."""
        while True:
            frame = frames.read_frame(self._channel.recv, next(self._heard))
            if not isinstance(frame, frames.Ping):
                return frame

    def open(self, number: int, grant: Grant, step: int = SIZE) -> None:
        """Begin to write, by so many bytes."""
        self.send(frames.Open(number, True, step, *secrets(grant), bytes(32), b""))

    def write(self, number: int, grant: Grant) -> None:
        """All of it, but for the slice."""
        self.open(number, grant)
        table = frames.packed(np.array([[0, SIZE]]))
        self.send(frames.Add(number, table), frames.Finish(number, SIZE))

    def small(self, number: int, grant: Grant, data: bytes) -> None:
        """A small write, whole."""
        table = frames.packed(np.array([[0, len(data)]]))
        rest = table + b"small" + data
        self.send(frames.Eager(number, *secrets(grant), 1, 5, rest))

    def close(self) -> None:
        """End all connections."""
        self._channel.close()
        self.stream.close()
        self._timer.close()


def secrets(grant: Grant) -> tuple[bytes, bytes]:
    """What a frame that begins a transfer shows."""
    return bytes.fromhex(grant.grant_id), bytes.fromhex(grant.capability)


def slice_of(number: int, data: bytes) -> bytes:
    """A plain slice as it travels, the first of a transfer."""
    head = SliceHead(number, 0, len(data), 1)
    tag, _ = Checksum().protect(head.pack(), 1, [memoryview(data)], bytearray())
    return head.pack() + tag + data
