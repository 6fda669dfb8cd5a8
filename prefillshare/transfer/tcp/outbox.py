"""Control frames on their way to the peer."""

from __future__ import annotations

import threading
from collections.abc import Callable

from prefillshare.errors import TransferBroken
from prefillshare.transfer.secure.channel import Channel
from prefillshare.transfer.tcp.frames import Frame

# A peer for which more than that waits is given up.
MAX_WAITING_BYTES = 1 << 26
_POLL_SECONDS = 0.02


class Outbox:
    """Sends frames in the order in which they were put in; any thread may put.

    The first is at `place` on its way. A peer that does not read holds nobody up who
    does not choose to wait: what its socket does not take stays here.
    """

    def __init__(self, channel: Channel, place: int) -> None:
        self._channel, self._place = channel, place
        self._lock = threading.Lock()
        self._waiting: list[bytes] = []
        self._bytes = 0
        # Held by whoever sends, and closes; `_rest` is what the socket has not taken.
        self._sending = threading.Lock()
        self._rest = memoryview(b"")

    @property
    def empty(self) -> bool:
        """Whether all has been sent."""
        return not (self._waiting or self._rest)

    def put(self, *messages: Frame) -> None:
        """Add frames; `TransferBroken` if too much waits for the peer to read."""
        with self._lock:
            for message in messages:
                self._waiting.append(message.encode(self._place))
                self._place += 1
                self._bytes += len(self._waiting[-1])
            waiting = self._bytes
        if waiting > MAX_WAITING_BYTES:
            raise TransferBroken(
                f"it reads nothing: {waiting} bytes wait for it, {MAX_WAITING_BYTES} "
                "may"
            )

    def flush(self) -> bool:
        """Send what the socket takes at once; False if it did not take everything.

        If another thread is sending, it sends everything. Raises `OSError` if the
        connection is gone.
        """
        while not self.empty and self._sending.acquire(blocking=False):
            try:
                if not self._drain():
                    return False
            finally:
                self._sending.release()
        return True

    def wait(self, wanted: Callable[[], bool]) -> None:
        """Send everything, for as long as it is `wanted`; raises as `flush`."""
        while not self.empty and wanted():
            with self._sending:
                if not self._drain():
                    self._channel.wait_writable(_POLL_SECONDS)

    def close(self) -> None:
        """Close the channel."""
        with self._sending:
            self._channel.close()

    def _drain(self) -> bool:
        while True:
            while self._rest:
                if not (sent := self._channel.send_some(self._rest)):
                    return False
                self._rest = self._rest[sent:]
            with self._lock:
                frames, self._waiting, self._bytes = self._waiting, [], 0
            if not frames:
                return True
            self._rest = memoryview(self._channel.seal(b"".join(frames)))
