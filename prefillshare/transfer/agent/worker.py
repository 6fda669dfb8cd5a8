"""What an agent does for one worker, and what it gives back when the worker is gone."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from prefillshare.errors import PrefillShareError, TransferError
from prefillshare.transfer.agent.lanes import Lanes
from prefillshare.transfer.agent.messages import (
    MALFORMED,
    Message,
    Messenger,
    error_to,
    send_arena,
)
from prefillshare.transfer.agent.moves import Moves
from prefillshare.transfer.arena import Arena
from prefillshare.transfer.base import Engine, GrantEnd, Link, Outcome, Region
from prefillshare.transfer.outbox import AGAIN_SECONDS
from prefillshare.transfer.timer import Timer

_log = logging.getLogger(__name__)
Act = Callable[[Mapping[str, Any], bytes], dict[str, Any]]
# How long a worker that is gone may still be read from or written to.
LET_GO_SECONDS = 30.0


class Host(Protocol):
    """What a worker's connection needs of the agent."""

    engine: Engine
    arena: Arena
    region: Region
    timer: Timer
    # Where peers reach it.
    address: str

    def allocate(self, size: int) -> int:
        """See `Space.allocate`."""

    def release(self, first: int) -> None:
        """See `Space.release`."""

    def known(self, address: str) -> Link | None:
        """The link to an address, if there is one."""

    def link(self, address: str, timeout: float, *, check: bool = False) -> Link:
        """The one link to an address, for all workers; `check` that a peer is there."""

    def forget(self, worker: Worker) -> None:
        """A worker is gone, and has nothing any more."""


class Worker:
    """One connection, and what has to be given back when it ends."""

    def __init__(self, agent: Host, sock: socket.socket) -> None:
        self._agent, self._sock = agent, sock
        self._messenger = Messenger(sock)
        self._changed = threading.Condition()
        self._closing = False
        # Whether a timed call will send what the worker has not read.
        self._waits = False
        self._parts: set[int] = set()
        self._grants: set[str] = set()
        self._lanes = Lanes()
        self._moves = moves = Moves(agent, self._lanes, self._tell)
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
        self._acts: dict[str, Act] = {
            "allocate": self._allocate,
            "release": self._release,
            "grant": self._grant,
            "revoke": self._revoke,
            "cancel": moves.cancel,
            "progress": moves.progress,
            "streams": self._streams,
            "close": self._close,
        }
        # These may wait for a peer, or come after what does: nothing else waits.
        self._later: dict[str, Act] = {
            "connect": self._connect,
            "begin": moves.begin,
            "add": moves.add,
            "finish": moves.finish,
        }

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def shut(self) -> None:
        """Break the connection off."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def join(self) -> None:
        """Wait until everything is given back."""
        self._thread.join()

    def _run(self) -> None:
        try:
            send_arena(self._sock, self._agent.arena)
            self._tell({"address": self._agent.address})
            while True:
                self._handle(self._messenger.receive())
        except (OSError, PrefillShareError, MemoryError) as error:
            _log.info("a worker is gone: %s", str(error))
        finally:
            self._give_back()
            self._lanes.close()
            self._messenger.close()
            self._agent.forget(self)

    def _handle(self, message: Message) -> None:
        what = str(message.body.get("do"))
        if (later := self._later.get(what)) is None:
            self._answer(message, self._acts.get(what, _unknown))
        elif refused := self._refused(message, later):
            self._reply(message, {"error": error_to(refused)})

    def _refused(self, message: Message, act: Act) -> Exception | None:
        """Have it answered on another thread, in the order of its transfer.

        Why it is not, otherwise.
        """
        what, call = message.body["do"], partial(self._answer, message, act)
        try:
            if what == "connect":
                self._lanes.put(object(), call)
            elif what == "begin":
                self._moves.announce(int(message.body["number"]), call)
            else:
                self._lanes.put(int(message.body["number"]), call)
        except (PrefillShareError, *MALFORMED) as error:
            return error
        return None

    def _answer(self, message: Message, act: Act) -> None:
        try:
            reply = act(message.body, message.blob)
        except (PrefillShareError, *MALFORMED) as error:
            reply = {"error": error_to(error)}
        except Exception as error:
            # A worker that asks for too much must not take its connection with it.
            _log.exception("an agent could not %s", message.body.get("do"))
            reply = {"error": error_to(error)}
        self._reply(message, reply)

    def _reply(self, message: Message, reply: Mapping[str, Any]) -> None:
        if isinstance(number := message.body.get("id"), int):
            self._tell({"id": number, **reply})

    def _allocate(self, body: Mapping[str, Any], _: bytes) -> dict[str, Any]:
        first = self._agent.allocate(int(body["size"]))
        self._parts.add(first)
        return {"first": first}

    def _release(self, body: Mapping[str, Any], _: bytes) -> dict[str, Any]:
        first = int(body["first"])
        self._parts.remove(first)
        self._agent.release(first)
        return {}

    def _grant(self, body: Mapping[str, Any], blob: bytes) -> dict[str, Any]:
        tag = int(body["tag"])

        def on_end(end: GrantEnd) -> None:
            with self._changed:
                self._grants.discard(grant.grant_id)
                self._changed.notify_all()
            outcome = Outcome.CLOSED if self._closing else end.outcome
            told = {"tag": tag, "outcome": outcome.value, "bytes": end.bytes}
            self._tell(told, end.note)

        ranges = np.frombuffer(blob, np.int64).reshape(-1, 2)
        engine, lease = self._agent.engine, float(body["lease"])
        with self._changed:
            grant = engine.grant(
                self._agent.region, ranges, body["access"], on_end, lease
            )
            self._grants.add(grant.grant_id)
        return {"grant": replace(grant, address=self._agent.address).to_dict()}

    def _revoke(self, body: Mapping[str, Any], _: bytes) -> dict[str, Any]:
        self._agent.engine.revoke(str(body["grant"]))
        return {}

    def _connect(self, body: Mapping[str, Any], _: bytes) -> dict[str, Any]:
        address, timeout = str(body["address"]), float(body["timeout"])
        self._agent.link(address, timeout, check=True)
        return {}

    def _streams(self, body: Mapping[str, Any], _: bytes) -> dict[str, Any]:
        link = self._agent.known(str(body["address"]))
        return {"streams": [asdict(each) for each in link.streams()] if link else []}

    def _close(self, body: Mapping[str, Any], _: bytes) -> dict[str, Any]:
        self._closing = True
        self._give_back()
        return {}

    def _tell(self, body: Mapping[str, Any], blob: bytes = b"") -> None:
        """Tell the worker; one that does not read holds no thread of the engine up."""
        try:
            self._messenger.post(body, blob)
        except TransferError as error:
            self._gone(error)
        else:
            self._flush()

    def _flush(self) -> None:
        try:
            done = self._messenger.flush()
        except TransferError as error:
            self._gone(error)
            return
        if not done and not self._waits:
            self._waits = True
            self._agent.timer.after(AGAIN_SECONDS, self._flush_again)

    def _flush_again(self) -> None:
        self._waits = False
        self._flush()

    def _gone(self, error: TransferError) -> None:
        _log.info("a worker is gone: %s", error)
        self.shut()

    def _give_back(self) -> None:
        self._moves.end()
        with self._changed:
            grants = list(self._grants)
        for grant_id in grants:
            self._agent.engine.revoke(grant_id)
        until = time.monotonic() + LET_GO_SECONDS
        moved = self._moves.wait(LET_GO_SECONDS)
        with self._changed:
            left = max(0.0, until - time.monotonic())
            lent = not self._changed.wait_for(lambda: not self._grants, left)
        if lent or not moved:
            _log.error("memory of a worker that is gone is still in use: it is lost")
            return
        while self._parts:
            self._agent.release(self._parts.pop())


def _unknown(body: Mapping[str, Any], _: bytes) -> dict[str, Any]:
    raise ValueError(f"an agent cannot {str(body.get('do'))[:80]!r}")
