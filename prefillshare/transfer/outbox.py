"""What is on its way to a peer that may not read."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from prefillshare.errors import TransferBroken
from prefillshare.transfer.secure.channel import Channel

# How long a peer that does not read is left alone before it is tried again.
AGAIN_SECONDS = 0.02


class Message(Protocol):
    """What can be sent."""

    def encode(self, place: int) -> bytes:
        """The message as it travels, as the `place`-th on its way."""


class Outbox:
    """Sends messages in the order in which they were put in; any thread may put.

    The first is at `place` on its way. A peer that does not read holds nobody up who
    does not choose to wait: what its socket does not take stays here, up to
    `max_bytes`.
    """

    def __init__(self, channel: Channel, max_bytes: int, place: int = 0) -> None:
        self._channel, self._max_bytes, self._place = channel, max_bytes, place
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

    def put(self, *messages: Message) -> None:
        """Add messages; `TransferBroken` if too much waits for the peer to read."""
        with self._lock:
            for message in messages:
                self._waiting.append(message.encode(self._place))
                self._place += 1
                self._bytes += len(self._waiting[-1])
            waiting = self._bytes
        if waiting > self._max_bytes:
            raise TransferBroken(
                f"it reads nothing: {waiting} bytes wait for it, {self._max_bytes} may"
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

    def wait(self, wanted: Callable[[], bool]) -> bool:
        """Send everything, for as long as it is `wanted`; whether all is sent.

        Raises as `flush`.
        """
        while not self.empty and wanted():
            with self._sending:
                if not self._drain():
                    self._channel.wait_writable(AGAIN_SECONDS)
        return self.flush()

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
                messages, self._waiting, self._bytes = self._waiting, [], 0
            if not messages:
                return True
            self._rest = memoryview(self._channel.seal(b"".join(messages)))
