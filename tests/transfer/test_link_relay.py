"""An emulated link between real sockets: what goes in comes out, and only that."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from prefillshare.errors import ConfigError
from prefillshare.transfer.linkemu import shaper
from prefillshare.transfer.linkemu.relay import Direction, LinkEmulator, Pipe
from prefillshare.transfer.linkemu.shaper import LinkSettings

Serve = Callable[[StreamReader, StreamWriter], Awaitable[None]]


@asynccontextmanager
async def linked(serve: Serve, **settings: Any) -> AsyncIterator[LinkEmulator]:
    """A server, and a link to it."""
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        fields = LinkSettings(**settings)
        async with LinkEmulator(fields, ("127.0.0.1", port)) as link:
            yield link


async def echo(reader: StreamReader, writer: StreamWriter) -> None:
    """All that came, once its end has come."""
    try:
        writer.write(await reader.read())
        await writer.drain()
    except ConnectionResetError:
        pass
    finally:
        await closed(writer)


async def closed(writer: StreamWriter) -> None:
    """To its end, so that the loop leaves nothing behind."""
    writer.close()
    with contextlib.suppress(ConnectionResetError):
        await writer.wait_closed()


async def reset(reader: StreamReader, writer: StreamWriter) -> None:
    """Ends a connection as a killed process's kernel may."""
    await reader.readexactly(1)
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, linger
    )
    writer.transport.abort()


async def asked(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    writer.write_eof()
    found = await reader.read()
    await closed(writer)
    return found


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"delay": 0.001, "jitter": 0.002},
        {"rate": 4e8, "queue_bytes": 1000},
        {"rate": 4e8, "stall_every": 0.01, "stall": 0.005},
    ],
    ids=str,
)
def test_every_byte_comes_out_in_order_on_every_connection(
    settings: dict[str, Any],
) -> None:
    sent = [random.Random(seed).randbytes(300_000 + seed) for seed in range(3)]

    async def run() -> list[bytes]:
        async with linked(echo, **settings) as link:
            return await asyncio.gather(*(asked(link.port, data) for data in sent))

    assert asyncio.run(run()) == sent


def test_nothing_comes_out_before_its_delay() -> None:
    async def run() -> float:
        clock = asyncio.get_running_loop().time
        async with linked(echo, delay=0.05) as link:
            began = clock()
            await asked(link.port, b"x")
            return clock() - began

    assert asyncio.run(run()) >= 2 * 0.05


def test_a_reset_at_one_end_is_one_at_the_other() -> None:
    async def run() -> None:
        async with linked(reset) as link:
            reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
            writer.write(b"x")
            with pytest.raises(ConnectionResetError):
                await reader.readexactly(1)
            await closed(writer)

    asyncio.run(run())


def test_without_a_target_connections_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    async def run() -> bytes:
        async with LinkEmulator(LinkSettings(), ("127.0.0.1", port)) as link:
            reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
            try:
                return await reader.read()
            except ConnectionResetError:
                return b""
            finally:
                await closed(writer)

    assert asyncio.run(run()) == b""


def test_what_does_not_fit_waits_until_there_is_room() -> None:
    async def run() -> None:
        way, pipe = Direction(LinkSettings(queue_bytes=100), lambda: 0.0), Pipe()
        await way.enter(pipe, bytes(60))
        second = asyncio.create_task(way.enter(pipe, bytes(41)))
        third = asyncio.create_task(way.enter(pipe, bytes(40)))
        await third
        assert not second.done()
        await way.leave(60)
        await second
        # Larger than the link altogether: alone, if nothing else is in it.
        await way.leave(81)
        await way.enter(pipe, bytes(1000))
        assert [len(data) for _, data in pipe.chunks] == [60, 40, 41, 1000]

    asyncio.run(run())


def test_a_reader_that_stops_does_not_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shaper, "UNDER_WAY_BYTES", 100)

    async def run() -> None:
        settings = LinkSettings(delay=1.0, queue_bytes=50)
        way, pipe = Direction(settings, lambda: 0.0), Pipe()
        await way.enter(pipe, bytes(100))
        await way.enter(pipe, bytes(50))
        waiting = asyncio.create_task(way.enter(pipe, bytes(1)))
        await asyncio.sleep(0)
        assert not waiting.done()
        await way.leave(100)
        await waiting

    asyncio.run(run())


def test_an_ended_emulator_leaves_no_connection() -> None:
    async def run() -> None:
        async with linked(echo, rate=8.0) as link:
            reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
            writer.write(bytes(1_000_000))
            await link.busy.wait()
        assert not link.connections
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        await closed(writer)

    asyncio.run(run())


def test_it_listens_on_loopback_alone() -> None:
    with pytest.raises(ConfigError, match="not a loopback address"):
        LinkEmulator(LinkSettings(), ("127.0.0.1", 1), host="0.0.0.0")


def test_a_link_that_ends_while_a_connection_closes_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual, errors = StreamWriter.wait_closed, []

    async def run() -> None:
        closing = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, why: errors.append(why))
        async with linked(echo) as link:

            async def held(writer: StreamWriter) -> None:
                if writer.get_extra_info("sockname")[1] == link.port:
                    closing.set()
                    await asyncio.Event().wait()
                await usual(writer)

            monkeypatch.setattr(StreamWriter, "wait_closed", held)
            assert await asked(link.port, b"x") == b"x"
            await closing.wait()

    asyncio.run(run())
    assert errors == []
