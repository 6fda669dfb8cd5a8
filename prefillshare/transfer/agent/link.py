"""Transfers of a worker, as the agent of the host carries them out."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from prefillshare.errors import TransferClosed, TransferError
from prefillshare.transfer.agent.messages import error_from
from prefillshare.transfer.base import (
    Access,
    Batch,
    Grant,
    Region,
    StreamInfo,
)
from prefillshare.transfer.beginning import Beginning
from prefillshare.transfer.pending import Pending
from prefillshare.transfer.ranges import as_ranges, check_within


class Asking(Protocol):
    """What a transfer needs of the worker's engine."""

    def ask(self, body: Mapping[str, Any], blob: bytes = b"") -> Mapping[str, Any]:
        """Put a question to the agent; raises what it answers with."""

    def tell(self, body: Mapping[str, Any]) -> None:
        """Have the agent do something, without waiting for it."""

    def number(self) -> int:
        """One that no other transfer of this process has."""

    def offset_of(self, region: Region) -> int:
        """Where a region begins in the arena; `ValueError` unless it is registered."""

    def begin(
        self, transfer: AgentTransfer, body: Mapping[str, Any], blob: bytes
    ) -> None:
        """Have the agent start a transfer."""


class AgentTransfer(Pending):
    """See `Transfer`."""

    def __init__(self, engine: Asking, number: int, region: Region) -> None:
        super().__init__()
        self.number = number
        self._engine, self.region = engine, region

    @property
    def progress(self) -> tuple[int, int]:
        """See `Transfer.progress`; asks the agent while it is not over."""
        moved, added = super().progress
        if not self.done:
            with contextlib.suppress(TransferError):
                reply = self._engine.ask({"do": "progress", "number": self.number})
                moved = int(reply["moved"])
        return moved, added

    def add(self, batch: Batch) -> None:
        """See `Transfer.add`."""
        shifted = self.shifted(batch)
        if self.done:
            self.wait(0)
            raise TransferClosed("the transfer is over")
        self._engine.ask({"do": "add", "number": self.number}, shifted.tobytes())

    def shifted(self, batch: Batch) -> Batch:
        """The batch with offsets of the arena, its size counted."""
        rows = as_ranges(batch, 3)
        check_within(rows[:, [0, 2]], self.region.memory.nbytes, "the region")
        shifted = rows + [self._engine.offset_of(self.region), 0, 0]
        self.announce(int(rows[:, 2].sum()), len(rows))
        return np.asarray(shifted)

    def finish(self) -> None:
        """See `Transfer.finish`."""
        self._engine.ask({"do": "finish", "number": self.number})

    def interrupt(self) -> None:
        """See `Pending.interrupt`."""
        self._engine.tell({"do": "cancel", "number": self.number})

    def end(self, body: Mapping[str, Any]) -> None:
        """What the agent says of the end."""
        self.count(int(body["moved"]))
        self.sealed = bool(body.get("sealed"))
        self.settle(error_from(body["error"]) if "error" in body else None)


class AgentLink(Beginning[AgentTransfer]):
    """A `Link` of the agent's."""

    def __init__(self, engine: Asking, address: str) -> None:
        self._engine, self._address = engine, address
        self._lock = threading.Lock()
        self._closed = False
        self._mine: list[AgentTransfer] = []

    @property
    def warm(self) -> bool:
        """See `Link.warm`: whether or not the host has to connect, others go on."""
        return True

    def streams(self) -> list[StreamInfo]:
        """See `Link.streams`: those of the host, which all of its workers share."""
        reply = self._engine.ask({"do": "streams", "address": self._address})
        return [StreamInfo(**each) for each in reply["streams"]]

    def close(self) -> None:
        """Cancel what this process has under way; the host's connection stays."""
        with self._lock:
            self._closed = True
            mine = self._mine
        for transfer in mine:
            transfer.stop(_closed())

    def begin(
        self,
        access: Access,
        grant: Grant,
        region: Region,
        batch: Batch | None,
        timeout: float,
        note: bytes,
    ) -> AgentTransfer:
        """See `Beginning.begin`."""
        if self._closed:
            raise TransferClosed("the link is closed; connect again")
        self._engine.offset_of(region)
        transfer = AgentTransfer(self._engine, self._engine.number(), region)
        table = b"" if batch is None else transfer.shifted(batch).tobytes()
        body = {
            "number": transfer.number,
            "address": self._address,
            "grant": grant.to_dict(),
            "timeout": timeout,
            "note": len(note),
        }
        self._engine.begin(transfer, body, note + table)
        with self._lock:
            self._mine = [each for each in self._mine if not each.done] + [transfer]
            closed = self._closed
        if closed:
            # While the agent was asked: `close` knew nothing of it yet.
            transfer.stop(_closed())
        return transfer


def _closed() -> TransferClosed:
    return TransferClosed("the link was closed on this side")
