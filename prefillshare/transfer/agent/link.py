"""Transfers of a worker, as the agent of the host carries them out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from prefillshare.errors import TransferClosed
from prefillshare.transfer.agent.messages import error_from
from prefillshare.transfer.base import Access, Batch, Grant, Region
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

    def begin(
        self, transfer: AgentTransfer, body: Mapping[str, Any], blob: bytes
    ) -> None:
        """Have the agent start a transfer."""


class AgentTransfer(Pending):
    """See `Transfer`."""

    def __init__(self, engine: Asking, number: int, region: Region) -> None:
        super().__init__()
        self.number = number
        self._engine, self._region = engine, region

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
        check_within(rows[:, [0, 2]], self._region.memory.nbytes, "the region")
        self.announce(int(rows[:, 2].sum()), len(rows))
        return np.asarray(rows + [self._region.number, 0, 0])

    def finish(self) -> None:
        """See `Transfer.finish`."""
        self._engine.ask({"do": "finish", "number": self.number})

    def interrupt(self) -> None:
        """See `Pending.interrupt`."""
        self._engine.tell({"do": "cancel", "number": self.number})

    def end(self, body: Mapping[str, Any]) -> None:
        """What the agent says of the end."""
        self.count(int(body["moved"]))
        self.settle(error_from(body["error"]) if "error" in body else None)


class AgentLink:
    """A `Link` of the agent's."""

    def __init__(self, engine: Asking, address: str) -> None:
        self._engine, self._address = engine, address
        self._mine: list[AgentTransfer] = []

    def read(
        self,
        grant: Grant,
        into: Region,
        batch: Batch | None = None,
        *,
        timeout: float,
        note: bytes = b"",
    ) -> AgentTransfer:
        """See `Link.read`."""
        return self._begin("read", grant, into, batch, timeout, note)

    def write(
        self,
        grant: Grant,
        source: Region,
        batch: Batch | None = None,
        *,
        timeout: float,
        note: bytes = b"",
    ) -> AgentTransfer:
        """See `Link.write`."""
        return self._begin("write", grant, source, batch, timeout, note)

    def close(self) -> None:
        """Cancel what this process has under way; the host's connection stays."""
        for transfer in self._mine:
            transfer.cancel()

    def _begin(
        self,
        access: Access,
        grant: Grant,
        region: Region,
        batch: Batch | None,
        timeout: float,
        note: bytes,
    ) -> AgentTransfer:
        if grant.access != access:
            raise ValueError(f"the grant is for {grant.access}, not for {access}")
        transfer = AgentTransfer(self._engine, self._engine.number(), region)
        table = b"" if batch is None else transfer.shifted(batch).tobytes()
        body = {
            "number": transfer.number,
            "grant": grant.to_dict(),
            "timeout": timeout,
            "note": len(note),
        }
        self._engine.begin(transfer, body, note + table)
        self._mine = [each for each in self._mine if not each.done] + [transfer]
        return transfer
