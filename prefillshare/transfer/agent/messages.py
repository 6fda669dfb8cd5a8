"""Messages between an agent and a worker: a small dictionary, and bytes.

A message is two lengths (u32), JSON of the first length and bytes of the second. Both
sides are processes of one user on one host.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prefillshare import errors
from prefillshare.errors import (
    TransferBroken,
    TransferError,
    TransferIntegrityError,
    TransferTimeout,
)
from prefillshare.transfer.arena import Arena
from prefillshare.transfer.outbox import Outbox
from prefillshare.transfer.secure.channel import PlainChannel

_HEAD = struct.Struct("!II")
MAX_JSON, MAX_BLOB = 1 << 16, 1 << 26
MAX_WAITING = 2 * MAX_BLOB
# What reading a message raises whose values are not those that belong there.
MALFORMED = (KeyError, ValueError, TypeError, OverflowError)
_NAMED = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.PrefillShareError)
} | {"ValueError": ValueError}


@dataclass(frozen=True)
class Message:
    """What is asked, answered or told, and the bytes that go with it."""

    body: Mapping[str, Any]
    blob: bytes = b""

    def encode(self, _: int = 0) -> bytes:
        """As it travels; `ValueError` if it is too long."""
        text = json.dumps(self.body).encode()
        if len(text) > MAX_JSON or len(self.blob) > MAX_BLOB:
            raise ValueError(
                f"a message of {len(text)} and {len(self.blob)} bytes; at most "
                f"{MAX_JSON} and {MAX_BLOB} are allowed"
            )
        return _HEAD.pack(len(text), len(self.blob)) + text + self.blob


class Messenger:
    """Sends and receives messages over a socket; any thread may send.

    Raises `TransferBroken` if the other process is gone, or reads nothing while much is
    sent.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._outbox = Outbox(PlainChannel(sock), MAX_WAITING)

    def post(self, body: Mapping[str, Any], blob: bytes = b"") -> None:
        """Have one sent by the next `flush`."""
        self._outbox.put(Message(body, blob))

    def flush(self) -> bool:
        """Send what the other process reads at once; False if something is left."""
        try:
            return self._outbox.flush()
        except OSError as error:
            raise TransferBroken(f"the process is gone: {error}") from error

    def send(self, body: Mapping[str, Any], blob: bytes, seconds: float) -> None:
        """Send one; `TransferTimeout` if it has not been read in so many seconds."""
        self._outbox.put(Message(body, blob))
        deadline = time.monotonic() + seconds
        try:
            done = self._outbox.wait(lambda: time.monotonic() < deadline)
        except OSError as error:
            raise TransferBroken(f"the process is gone: {error}") from error
        if not done:
            raise TransferTimeout(f"the process has read nothing for {seconds} s")

    def receive(self) -> Message:
        """Wait for one.

        Raises `TransferBroken` if the other process is gone, `TransferIntegrityError`
        for what is no message.
        """
        lengths = _HEAD.unpack(self._exactly(_HEAD.size))
        if lengths[0] > MAX_JSON or lengths[1] > MAX_BLOB:
            raise TransferIntegrityError(f"no message has lengths {lengths}")
        text, blob = self._exactly(lengths[0]), self._exactly(lengths[1])
        try:
            body = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise TransferIntegrityError(f"no message: {error}") from error
        if not isinstance(body, dict):
            raise TransferIntegrityError("a message that is no dictionary")
        return Message(body, blob)

    def close(self) -> None:
        """Close the socket."""
        self._outbox.close()

    def _exactly(self, size: int) -> bytes:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            try:
                count = self._sock.recv_into(view)
            except OSError as error:
                raise TransferBroken(f"the process is gone: {error}") from error
            if not count:
                raise TransferBroken("the process closed the connection")
            view = view[count:]
        return bytes(data)


def send_arena(sock: socket.socket, arena: Arena) -> None:
    """Share an arena with the process at the other end; raises `OSError`."""
    socket.send_fds(sock, [b"A"], [arena.descriptor])


def receive_arena(sock: socket.socket) -> Arena:
    """The arena that the other process shares; raises `OSError`, `TransferError`."""
    _, descriptors, _, _ = socket.recv_fds(sock, 1, 1)
    if not descriptors:
        raise TransferBroken("the agent sent no arena")
    try:
        arena = Arena.attach(descriptors[0])
        # The mapping keeps it; the descriptor would be one more thing to leave behind.
        os.close(arena.descriptor)
        arena.descriptor = -1
        return arena
    finally:
        os.close(descriptors[0])


def error_to(error: BaseException) -> dict[str, str]:
    """An error as part of a message."""
    known = next((k.__name__ for k in type(error).__mro__ if k.__name__ in _NAMED), "")
    return {"kind": known or "TransferError", "text": str(error)[:4096]}


def error_from(body: object) -> Exception:
    """Undo `error_to`."""
    if not isinstance(body, Mapping):
        return TransferError(f"failed, and does not say why: {str(body)[:4096]}")
    return _NAMED.get(str(body.get("kind")), TransferError)(str(body.get("text")))
