"""A relay that passes TCP connections on as a link would.

Every connection to the emulator is one to the target; the bytes of all of them share
the link, each direction by itself. It runs in the caller's event loop, or by itself as
`python -m prefillshare.transfer.linkemu`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from prefillshare.errors import ConfigError
from prefillshare.transfer.linkemu.shaper import LinkSettings, Shaper
from prefillshare.transfer.tcp.sockets import is_loopback

# Small enough that a slow link flows evenly, large enough for a fast one.
_READ_BYTES = 1 << 16


@dataclass
class Pipe:
    """What is under way from one socket to another: times and bytes, EOF as none."""

    chunks: deque[tuple[float, bytes]] = field(default_factory=deque)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)


class Direction:
    """One direction of the link, and how full it is."""

    def __init__(
        self, settings: LinkSettings, clock: Callable[[], float], way: int = 0
    ) -> None:
        self._clock, self._shaper = clock, Shaper(settings, clock(), way)
        self._capacity, self._held = settings.capacity, 0
        self._room = asyncio.Condition()

    async def enter(self, pipe: Pipe, data: bytes) -> None:
        """Let `data` into the link once there is room."""
        async with self._room:
            await self._room.wait_for(
                lambda: not self._held or self._held + len(data) <= self._capacity
            )
            self._held += len(data)
        pipe.chunks.append((self._shaper.carry(self._clock(), len(data)), data))
        pipe.arrived.set()

    async def leave(self, size: int) -> None:
        """Bytes came out, or were dropped with their connection."""
        async with self._room:
            self._held -= size
            self._room.notify_all()


class LinkEmulator:
    """An asynchronous context: connections to `port` reach `target` over the link.

    Args:
        target: host and port.
        host, port: where to listen; port 0 takes a free one. Loopback only: it passes
            on whatever comes.

    Raises:
        ConfigError: the host is not a loopback address.
        OSError: the port is taken.
    """

    def __init__(
        self,
        settings: LinkSettings,
        target: tuple[str, int],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        if not is_loopback(host):
            raise ConfigError(
                f"host {host!r} is not a loopback address; use 127.0.0.1 or ::1"
            )
        self._settings, self._target = settings, target
        self._address = (host, port)
        self._tasks: set[asyncio.Task[None]] = set()
        # Set once the first connection has reached the target.
        self.busy = asyncio.Event()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def connections(self) -> int:
        """That are open."""
        return len(self._tasks)

    async def __aenter__(self) -> Self:
        clock = asyncio.get_running_loop().time
        self._ways = [Direction(self._settings, clock, way) for way in (0, 1)]
        self._server = await asyncio.start_server(
            self._serve, *self._address, limit=_READ_BYTES
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        writers = [writer]
        try:
            far_reader, far_writer = await asyncio.open_connection(
                *self._target, limit=_READ_BYTES
            )
            writers.append(far_writer)
            self.busy.set()
            async with asyncio.TaskGroup() as both:
                both.create_task(_carry(reader, far_writer, self._ways[0]))
                both.create_task(_carry(far_reader, writer, self._ways[1]))
        except* (OSError, asyncio.CancelledError):
            # Either end was reset, or is not there: so is the other, then.
            for each in writers:
                _reset(each)
        finally:
            # All of them before the first wait: that may be cancelled.
            for each in writers:
                each.close()
            ends = (each.wait_closed() for each in writers)
            # A cancelled task would be an error in the loop's own callback.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*ends, return_exceptions=True)
            self._tasks.discard(task)


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection so that its other end is told that it broke."""
    sock = writer.get_extra_info("socket")
    linger = struct.pack("ii", 1, 0)
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


async def _carry(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Direction
) -> None:
    """Until the end of the stream, which is carried too."""
    pipe = Pipe()
    try:
        async with asyncio.TaskGroup() as ends:
            ends.create_task(_take_in(reader, pipe, way))
            ends.create_task(_give_out(pipe, writer, way))
    finally:
        await asyncio.shield(way.leave(sum(len(data) for _, data in pipe.chunks)))


async def _take_in(reader: asyncio.StreamReader, pipe: Pipe, way: Direction) -> None:
    while data := await reader.read(_READ_BYTES):
        await way.enter(pipe, data)
    await way.enter(pipe, b"")


async def _give_out(pipe: Pipe, writer: asyncio.StreamWriter, way: Direction) -> None:
    clock = asyncio.get_running_loop().time
    while True:
        while not pipe.chunks:
            pipe.arrived.clear()
            await pipe.arrived.wait()
        due, data = pipe.chunks[0]
        if (left := due - clock()) > 0:
            await asyncio.sleep(left)
        if not data:
            pipe.chunks.popleft()
            writer.write_eof()
            return
        writer.write(data)
        await writer.drain()
        # In this order: cancelled on the way, what the link holds is still counted.
        await way.leave(len(data))
        pipe.chunks.popleft()
