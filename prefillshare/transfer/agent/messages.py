"""Messages between an agent and a worker: a small dictionary, and bytes.

A message is two lengths (u32), JSON of the first length and bytes of the second. Both
sides are processes of one user on one host.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prefillshare import errors
from prefillshare.errors import TransferBroken, TransferError, TransferIntegrityError
from prefillshare.transfer.arena import Arena

_HEAD = struct.Struct("!II")
MAX_JSON, MAX_BLOB = 1 << 16, 1 << 26
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


class Messenger:
    """Sends and receives messages over a socket; any thread may send."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()

    def send(self, body: Mapping[str, Any], blob: bytes = b"") -> None:
        """Send one; `TransferBroken` if the other process is gone."""
        text = json.dumps(body).encode()
        if len(text) > MAX_JSON or len(blob) > MAX_BLOB:
            raise ValueError(
                f"a message of {len(text)} and {len(blob)} bytes; at most {MAX_JSON} "
                f"and {MAX_BLOB} are allowed"
            )
        try:
            with self._lock:
                self._sock.sendall(_HEAD.pack(len(text), len(blob)) + text + blob)
        except OSError as error:
            raise TransferBroken(f"the process is gone: {error}") from error

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
        except ValueError as error:
            raise TransferIntegrityError(f"no message: {error}") from error
        if not isinstance(body, dict):
            raise TransferIntegrityError("a message that is no dictionary")
        return Message(body, blob)

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

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


def error_from(body: Mapping[str, Any]) -> Exception:
    """Undo `error_to`."""
    return _NAMED.get(str(body.get("kind")), TransferError)(str(body.get("text")))
