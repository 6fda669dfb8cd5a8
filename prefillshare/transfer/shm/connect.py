"""Addresses of Unix sockets, and how to reach the engine at one."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from prefillshare.errors import TransferBroken, TransferTimeout
from prefillshare.transfer.shm import wire
from prefillshare.transfer.shm.wire import Channel

_PREFIX = "shm://"


def socket_address(address: str) -> str:
    """What a socket binds to for `shm:///path` or `shm://@name`, or `ValueError`."""
    name = address.removeprefix(_PREFIX)
    if name == address or name[:1] not in ("/", "@") or not 2 <= len(name) <= 100:
        raise ValueError(
            f"address {address!r} is not like shm:///path/to/socket or shm://@name, "
            "with at most 100 characters"
        )
    return name if name[0] == "/" else "\0" + name[1:]


def open_channel(address: str, timeout: float) -> tuple[Channel, str]:
    """Connect; the channel, and the id of the engine there. See `Engine.connect`."""
    channel = _connected(socket_address(address), address, timeout)
    try:
        return channel, _greeted(channel, until(timeout, address), address)
    except BaseException:
        channel.close()
        raise


def _connected(where: str, address: str, timeout: float) -> Channel:
    sock = None
    try:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(timeout)
        sock.connect(where)
        wire.check_peer(sock)
        return Channel(sock)
    except BaseException as error:
        if sock is not None:
            sock.close()
        if isinstance(error, OSError):
            raise TransferBroken(
                f"{address}: nothing answers there: {error}"
            ) from error
        raise


def _greeted(channel: Channel, left: Callable[[], float], address: str) -> str:
    magic, engine = wire.GREETING.unpack(channel.receive(wire.GREETING.size, left))
    if magic != wire.MAGIC:
        raise TransferBroken(f"{address}: what answers there is no shm engine")
    if error := channel.receive_reply(left).error:
        raise error
    return str(engine.hex())


def until(timeout: float, address: str) -> Callable[[], float]:
    deadline = time.monotonic() + timeout

    def left() -> float:
        if (seconds := deadline - time.monotonic()) > 0:
            return seconds
        raise TransferTimeout(f"{address}: no answer within {timeout} s")

    return left
