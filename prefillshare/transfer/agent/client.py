"""A worker's side: the engine's contract, carried out by the agent of the host."""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from prefillshare.errors import TransferClosed, TransferError
from prefillshare.transfer.agent.connection import ANSWER_SECONDS, Connection
from prefillshare.transfer.agent.link import AgentLink, AgentTransfer
from prefillshare.transfer.agent.messages import Message
from prefillshare.transfer.arena import Arena
from prefillshare.transfer.base import (
    ID_BYTES,
    Access,
    Grant,
    GrantEnd,
    Outcome,
    Ranges,
    Region,
)
from prefillshare.transfer.grants import still_used
from prefillshare.transfer.ranges import as_ranges, check_disjoint, check_within

_log = logging.getLogger(__name__)


@dataclass
class _Lent:
    region: Region
    on_end: Callable[[GrantEnd], None]
    grant_id: str = "00" * ID_BYTES


class AgentEngine:
    """An `Engine` for memory of the agent's arena; `allocate` gives parts of it.

    What this process holds, parts, grants and transfers, is given back when it closes
    the engine or dies. Raises `TransferBroken` if no agent is there, `TransferRefused`
    if it is another user's.
    """

    def __init__(self, path: str, timeout: float = 10.0) -> None:
        self._lock = threading.Condition()
        self._numbers = itertools.count(1)
        self._offsets: dict[Region, int] = {}
        self._lent: dict[int, _Lent] = {}
        self._transfers: dict[int, AgentTransfer] = {}
        # What the user is told runs apart from what hears the agent, and may ask it.
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._call, name="agent-calls")
        self._thread.daemon = True
        self._agent = Connection(path, timeout, self._told, self._end)
        self._agent.start()
        self._thread.start()

    @property
    def arena(self) -> Arena:
        """The agent's."""
        return self._agent.arena

    @property
    def address(self) -> str:
        """See `Engine.address`: the agent's."""
        return self._agent.address

    def allocate(self, size: int) -> memoryview:
        """A new part of the arena; `CapacityError` if it is full."""
        first = int(self.ask({"do": "allocate", "size": size})["first"])
        return self.arena.view[first : first + size]

    def release(self, part: memoryview) -> None:
        """Give a part back that `allocate` gave, and that nothing uses any more."""
        self.ask({"do": "release", "first": self.arena.offset_of(part)})

    def register(self, buffer: memoryview) -> Region:
        """See `Engine.register`; `ValueError` for memory outside of the arena."""
        self._agent.check()
        if buffer.readonly or not buffer.c_contiguous or not buffer.nbytes:
            raise ValueError("a region must be contiguous, writable and not empty")
        offset = self.arena.offset_of(buffer)
        region = Region(self.number(), buffer.cast("B"))
        with self._lock:
            self._offsets[region] = offset
        return region

    def deregister(self, region: Region) -> None:
        """See `Engine.deregister`; the arena stays registered with the agent."""
        offset = self.offset_of(region)
        with self._lock:
            del self._offsets[region]
            lent = {t: each for t, each in self._lent.items() if each.region is region}
            moving = [t for t in self._transfers.values() if t.region is region]
        try:
            self._let_go(region, lent, moving)
        except BaseException:
            with self._lock:
                self._offsets[region] = offset
            raise

    def _let_go(
        self, region: Region, lent: Mapping[int, _Lent], moving: list[AgentTransfer]
    ) -> None:
        for transfer in moving:
            transfer.stop(TransferClosed("the region was deregistered on this side"))
        for each in lent.values():
            self.revoke(each.grant_id)
        with self._lock:
            if not self._lock.wait_for(
                lambda: (
                    not lent.keys() & self._lent.keys()
                    and all(transfer.done for transfer in moving)
                ),
                ANSWER_SECONDS,
            ):
                raise still_used(region)

    def offset_of(self, region: Region) -> int:
        """Where a region begins in the arena; `ValueError` unless it is registered."""
        if (offset := self._offsets.get(region)) is None:
            raise ValueError(f"region {region.number} is not registered here")
        return offset

    def grant(
        self,
        region: Region,
        ranges: Ranges,
        access: Access,
        on_end: Callable[[GrantEnd], None],
        lease_seconds: float = 60.0,
    ) -> Grant:
        """See `Engine.grant`."""
        rows, offset = as_ranges(ranges), self.offset_of(region)
        check_within(rows, region.memory.nbytes, "the region")
        if access == "write":
            check_disjoint(rows)
        tag = self.number()
        lent = self._lent[tag] = _Lent(region, on_end)
        body = {"do": "grant", "tag": tag, "access": access, "lease": lease_seconds}
        try:
            reply = self.ask(body, (rows + [offset, 0]).tobytes())
        except BaseException:
            self._lent.pop(tag, None)
            raise
        grant = Grant.from_dict(reply["grant"])
        lent.grant_id = grant.grant_id
        return grant

    def revoke(self, grant_id: str) -> None:
        """See `Engine.revoke`."""
        bytes.fromhex(grant_id)
        self.ask({"do": "revoke", "grant": grant_id})

    def connect(self, address: str, timeout: float = 10.0) -> AgentLink:
        """See `Engine.connect`; the connection itself is the host's."""
        self.ask({"do": "connect", "address": address, "timeout": timeout})
        return AgentLink(self, address)

    def close(self) -> None:
        """See `Engine.close`; the arena is unmapped with the last part of it."""
        self._agent.close()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def ask(
        self, body: Mapping[str, Any], blob: bytes = b"", timeout: float = 0.0
    ) -> Mapping[str, Any]:
        """See `Connection.ask`."""
        return self._agent.ask(body, blob, timeout)

    def tell(self, body: Mapping[str, Any]) -> None:
        """See `Connection.tell`."""
        self._agent.tell(body)

    def number(self) -> int:
        """One that no other transfer of this process has."""
        return next(self._numbers)

    def begin(
        self, transfer: AgentTransfer, body: Mapping[str, Any], blob: bytes
    ) -> None:
        """Have the agent start a transfer."""
        with self._lock:
            self._transfers[transfer.number] = transfer
        try:
            self.ask({"do": "begin", **body}, blob, timeout=float(body["timeout"]))
        except BaseException as error:
            # Others may have stopped it, and wait for its end.
            transfer.settle(error)
            with self._lock:
                self._transfers.pop(transfer.number, None)
                self._lock.notify_all()
            raise

    def _told(self, message: Message) -> None:
        body = message.body
        if "over" in body:
            with self._lock:
                transfer = self._transfers.pop(int(body["over"]), None)
            if transfer is not None:
                self._calls.put(partial(self._over, transfer, body))
        elif "tag" in body:
            outcome, moved = Outcome(body["outcome"]), int(body["bytes"])
            end = GrantEnd(outcome, message.blob, moved)
            self._calls.put(partial(self._ended, int(body["tag"]), end))

    def _over(self, transfer: AgentTransfer, body: Mapping[str, Any]) -> None:
        transfer.end(body)
        with self._lock:
            self._lock.notify_all()

    def _ended(self, tag: int, end: GrantEnd) -> None:
        if (lent := self._lent.get(tag)) is None:
            # Told by the agent, and then the connection ended.
            return
        try:
            lent.on_end(end)
        finally:
            with self._lock:
                del self._lent[tag]
                self._lock.notify_all()

    def _end(self, gone: TransferError) -> None:
        with self._lock:
            transfers, self._transfers = list(self._transfers.values()), {}
            tags = list(self._lent)
        for transfer in transfers:
            self._calls.put(partial(transfer.settle, gone))
        for tag in tags:
            self._calls.put(partial(self._ended, tag, GrantEnd(Outcome.CLOSED)))
        self._calls.put(None)

    def _call(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception:
                _log.exception("what was told of an end failed")
            # What it holds is not held until the next one.
            del call
