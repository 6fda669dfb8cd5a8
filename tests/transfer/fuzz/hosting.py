"""The agent of a host before a worker that means it no good, and the reverse."""

from __future__ import annotations

import functools
import itertools
import os
import socket
import threading
from contextlib import suppress

from prefillshare.errors import PrefillShareError
from prefillshare.transfer.agent.client import AgentEngine
from prefillshare.transfer.agent.messages import _HEAD, MALFORMED, send_arena
from prefillshare.transfer.agent.server import Agent
from prefillshare.transfer.arena import Arena
from prefillshare.transfer.local import LocalEngine
from prefillshare.transfer.memory import MemoryNetwork
from tests.transfer.fuzz.defects import no_defect
from tests.transfer.fuzz.scratch import scratch
from tests.transfer.pairs import until

ARENA_BYTES = 1 << 16
SECONDS = 20.0
_NUMBERS = itertools.count()


def host(data: bytes) -> None:
    """Messages to an agent: two lengths of 16 bits each, and so many bytes.

    Nothing of what the worker had is left when it is gone.
    """
    with no_defect():
        agent = _agent()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(SECONDS)
            sock.connect(agent.path)
            with suppress(OSError):
                sock.sendall(b"".join(_messages(data)))
                sock.shutdown(socket.SHUT_WR)
                # The descriptor of the arena is not taken, and closed by the kernel.
                while sock.recv(1 << 16):
                    pass
        until(lambda: not agent._workers)
    assert agent.free_bytes == ARENA_BYTES
    assert isinstance(agent.engine, LocalEngine)
    assert not agent.engine.table._kept


def answers(data: bytes) -> None:
    """Messages as `host` takes them, from an agent to its worker."""
    path = str(scratch() / f"{next(_NUMBERS)}.sock")
    with no_defect(), socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        agent = threading.Thread(target=_say, args=(listener, _messages(data)))
        agent.start()
        with suppress(PrefillShareError):
            engine = AgentEngine(path, SECONDS)
            try:
                with suppress(PrefillShareError, *MALFORMED):
                    engine.allocate(1)
            finally:
                engine.close()
        agent.join()
    os.unlink(path)


def _say(listener: socket.socket, messages: list[bytes]) -> None:
    sock, _ = listener.accept()
    with sock, suppress(OSError):
        sock.settimeout(SECONDS)
        send_arena(sock, _agent().arena)
        sock.sendall(messages[0])
        # The rest comes once there is a question that it may answer.
        if messages[1:]:
            sock.recv(1 << 16)
        sock.sendall(b"".join(messages[1:]))
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(1 << 16):
            pass


def _messages(data: bytes) -> list[bytes]:
    several = []
    while len(data) >= 4:
        text, blob = int.from_bytes(data[:2]), int.from_bytes(data[2:4])
        data = data[4:]
        body = data[: text + blob].ljust(text + blob, b"\0")
        several.append(_HEAD.pack(text, blob) + body)
        data = data[text + blob :]
    # What is left is no message, or the beginning of a large one.
    return [*several, data]


@functools.cache
def _agent() -> Agent:
    path = scratch() / "agent.sock"
    engine = MemoryNetwork().engine()
    return Agent(str(path), engine, Arena(ARENA_BYTES, writers=True))
