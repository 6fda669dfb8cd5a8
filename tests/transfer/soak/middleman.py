"""A relay to an engine that harms what passes, at a byte that it is told."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from prefillshare.transfer.tcp.dial import STREAM_MAGIC
from prefillshare.transfer.tcp.sockets import format_address

Channel = Literal["control", "data"]
Act = Literal["flip", "reset", "stall", "call"]
STALL_SECONDS = 0.3


@dataclass(eq=False)
class Trap:
    """Springs once, after so many more bytes on connections of a kind.

    It flips a bit, resets the connection, stops reading from it for a while, or calls.
    """

    channel: Channel
    act: Act
    left: int
    call: Callable[[], None] = lambda: None
    sprung: threading.Event = field(default_factory=threading.Event)


@dataclass(eq=False)
class _Passing:
    writers: list[asyncio.StreamWriter]
    channel: Channel = "control"


class Middleman:
    """Listens on `address` and passes connections on to a port of this machine."""

    def __init__(self, port: int) -> None:
        self.target = port
        self._trap: Trap | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="middleman")
        self._thread.start()
        self._ready.wait()

    def arm(self, trap: Trap | None) -> None:
        """Have the next bytes count for a trap, the only one; None for none."""
        self._trap = trap

    def close(self) -> None:
        """End all connections."""
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        self.address = format_address("127.0.0.1", port)
        self._ready.set()
        await self._over.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await server.wait_closed()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        passing = _Passing([writer])
        try:
            back, far = await asyncio.open_connection("127.0.0.1", self.target)
            passing.writers.append(far)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._carry(passing, reader, far, first=True))
                both.create_task(self._carry(passing, back, writer))
        except* (OSError, asyncio.CancelledError):
            for each in passing.writers:
                _reset(each)
        finally:
            for each in passing.writers:
                each.close()
            ends = (each.wait_closed() for each in passing.writers)
            await asyncio.gather(*ends, return_exceptions=True)
            self._tasks.discard(task)

    async def _carry(
        self,
        passing: _Passing,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        first: bool = False,
    ) -> None:
        while data := await reader.read(1 << 16):
            if first:
                begins = data.startswith(STREAM_MAGIC[:1])
                passing.channel, first = "data" if begins else "control", False
            writer.write(await self._harmed(passing.channel, data))
            await writer.drain()
        writer.write_eof()

    async def _harmed(self, channel: Channel, data: bytes) -> bytes:
        trap = self._trap
        if trap is None or trap.channel != channel:
            return data
        if trap.left >= len(data):
            trap.left -= len(data)
            return data
        self._trap = None
        trap.sprung.set()
        match trap.act:
            case "flip":
                flipped = bytearray(data)
                flipped[trap.left] ^= 1 << trap.left % 8
                return bytes(flipped)
            case "reset":
                raise ConnectionResetError
            case "stall":
                await asyncio.sleep(STALL_SECONDS)
            case "call":
                trap.call()
        return data


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        linger = struct.pack("ii", 1, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()
