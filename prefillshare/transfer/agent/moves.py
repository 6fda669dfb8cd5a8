"""Transfers of a worker, as its agent carries them out."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from prefillshare.errors import CapacityError, TransferClosed, TransferError
from prefillshare.transfer.agent.lanes import Lanes
from prefillshare.transfer.agent.messages import error_to
from prefillshare.transfer.arena import Arena
from prefillshare.transfer.base import Batch, Engine, Grant, Link, Region, Transfer

_CANCELLED = "cancelled before it began"


class Host(Protocol):
    """What transfers need of the agent."""

    engine: Engine
    arena: Arena

    def link(self, address: str, timeout: float) -> Link:
        """The one link to an address, for all workers."""


@dataclass(eq=False)
class _Move:
    """One transfer, from before it begins until it is over.

    Its region is its own meanwhile: what is about to begin, and waits for its peer,
    can be stopped by that alone.
    """

    region: Region
    transfer: Transfer | None = None
    cancelled: bool = False
    withdrawn: bool = False


class Moves:
    """A worker's transfers, by its numbers; `tell` has it told of their ends.

    `begin` and `add` may wait for a peer, everything else does not.
    """

    def __init__(
        self, host: Host, lanes: Lanes, tell: Callable[[Mapping[str, Any]], None]
    ) -> None:
        self._host, self._lanes, self._tell = host, lanes, tell
        self._changed = threading.Condition()
        self._moves: dict[int, _Move] = {}
        self._spare: list[Region] = []
        self._ended = False

    def announce(self, number: int, call: Callable[[], None]) -> None:
        """Have `begin` called in the lane of a number; it can be cancelled from now.

        Raises as `Lanes.put`, and `TransferClosed` after `end`.
        """
        with self._changed:
            if self._ended:
                raise TransferClosed("the worker is gone")
            if number in self._moves:
                raise ValueError(f"transfer {number} has begun; take another number")
            spare = self._spare
            region = spare.pop() if spare else self._registered()
            self._moves[number] = _Move(region)
        try:
            self._lanes.put(number, call)
        except BaseException:
            self._forget(number)
            raise

    def begin(self, body: Mapping[str, Any], blob: bytes) -> dict[str, Any]:
        """Begin one that was announced."""
        number, size = int(body["number"]), int(body["note"])
        note, table = blob[:size], blob[size:]
        move, batch = self._moves[number], None
        try:
            if table:
                batch = np.frombuffer(table, np.int64).reshape(-1, 3)
            transfer = self._begun(move, body, batch, note)
        except BaseException:
            self._forget(number)
            raise
        with self._changed:
            move.transfer = transfer
        transfer.add_done_callback(partial(self._over, number, transfer))
        if move.cancelled:
            transfer.cancel()
        return {}

    def _begun(
        self, move: _Move, body: Mapping[str, Any], batch: Batch | None, note: bytes
    ) -> Transfer:
        grant, timeout = Grant.from_dict(body["grant"]), float(body["timeout"])
        # Not where the grant says: a link by name is held to that host's certificate.
        link = self._host.link(str(body["address"]), timeout)
        if move.cancelled:
            raise TransferClosed(_CANCELLED)
        begin = link.write if grant.access == "write" else link.read
        try:
            return begin(grant, move.region, batch, timeout=timeout, note=note)
        except ValueError as error:
            if move.cancelled:
                raise TransferClosed(_CANCELLED) from error
            raise

    def add(self, body: Mapping[str, Any], blob: bytes) -> dict[str, Any]:
        """Feed one, if it is not over."""
        if (transfer := self._found(body)) is not None:
            transfer.add(np.frombuffer(blob, np.int64).reshape(-1, 3))
        return {}

    def finish(self, body: Mapping[str, Any], _: bytes) -> dict[str, Any]:
        """Nothing more will be added."""
        if (transfer := self._found(body)) is not None:
            transfer.finish()
        return {}

    def progress(self, body: Mapping[str, Any], _: bytes) -> dict[str, Any]:
        """Bytes that have moved."""
        transfer = self._found(body)
        return {"moved": transfer.progress[0] if transfer else 0}

    def cancel(self, body: Mapping[str, Any], _: bytes) -> dict[str, Any]:
        """End one, whatever it waits for."""
        with self._changed:
            move = self._moves.get(int(body["number"]))
        if move is not None:
            self._stop(move)
        return {}

    def end(self) -> None:
        """Cancel all, and let none begin any more."""
        with self._changed:
            self._ended = True
            moves = list(self._moves.values())
        for move in moves:
            self._stop(move)

    def wait(self, seconds: float) -> bool:
        """Whether, after `end`, all are over in time, and nothing touches memory."""
        with self._changed:
            over = self._changed.wait_for(lambda: not self._moves, seconds)
            spare, self._spare = self._spare, []
        for region in spare:
            self._withdraw(region)
            with contextlib.suppress(BufferError):
                region.memory.release()
        return over

    def _registered(self) -> Region:
        return self._host.engine.register(self._host.arena.view)

    def _forget(self, number: int) -> None:
        with self._changed:
            move = self._moves.pop(number)
            if not move.withdrawn:
                self._spare.append(move.region)
            self._changed.notify_all()

    def _found(self, body: Mapping[str, Any]) -> Transfer | None:
        with self._changed:
            move = self._moves.get(int(body["number"]))
            return move.transfer if move else None

    def _stop(self, move: _Move) -> None:
        with self._changed:
            move.cancelled = True
            transfer = move.transfer
            withdraw = transfer is None and not move.withdrawn
            move.withdrawn = move.withdrawn or withdraw
        if transfer is not None:
            transfer.cancel()
        elif withdraw:
            call = partial(self._withdraw, move.region)
            try:
                self._lanes.put(object(), call)
            except (TransferError, CapacityError):
                call()

    def _withdraw(self, region: Region) -> None:
        # The engine may have been closed.
        with contextlib.suppress(ValueError, TransferError):
            self._host.engine.deregister(region)

    def _over(self, number: int, transfer: Transfer) -> None:
        told: dict[str, Any] = {"over": number, "moved": transfer.progress[0]}
        try:
            told["sealed"] = transfer.wait(0).sealed
        except Exception as error:
            told["error"] = error_to(error)
        self._tell(told)
        self._forget(number)
