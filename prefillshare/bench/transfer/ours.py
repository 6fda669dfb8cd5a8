"""This project's engine in the benchmark: a grant a transfer, written to and noted."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from prefillshare.bench.transfer.engines import Place
from prefillshare.bench.transfer.shapes import Memory, Plan
from prefillshare.errors import TransferError, TransferTimeout
from prefillshare.transfer.base import Grant, GrantEnd, Link, Outcome

NOTE = b"written"


class OurReceiver:
    """Grants its memory, whole, for one transfer at a time."""

    def __init__(self, place: Place, timeout: float) -> None:
        self._place, self._timeout = place, timeout
        self._ends: list[GrantEnd] = []
        self._expected = 0
        self._told = threading.Condition()

    @property
    def memory(self) -> Memory:
        """What is written to."""
        return self._place.memory

    @property
    def address(self) -> str:
        """The engine's."""
        return self._place.engine.address

    def arrange(self, plan: Plan, count: int) -> list[dict[str, Any]]:
        """Issue all grants."""
        self._ends, self._expected = [], count
        whole = np.array([[0, plan.size]], np.int64)
        return [
            self._place.engine.grant(
                self._place.region,
                whole,
                "write",
                self._end,
                lease_seconds=self._timeout,
            ).to_dict()
            for _ in range(count)
        ]

    def _end(self, end: GrantEnd) -> None:
        with self._told:
            self._ends.append(end)
            self._told.notify_all()

    def settle(self) -> None:
        """Wait until every grant has ended; all must have ended well, with the note.

        Raises `TransferTimeout` if one does not end, `TransferError` if one failed.
        """
        with self._told:
            if not self._told.wait_for(
                lambda: len(self._ends) == self._expected, self._timeout
            ):
                raise TransferTimeout(
                    f"{len(self._ends)} of {self._expected} transfers were notified "
                    f"within {self._timeout:g} s; set more timeout_seconds"
                )
        for end in self._ends:
            if end.outcome is not Outcome.DONE or end.note != NOTE:
                raise TransferError(f"a grant ended as {end}, not as written to")

    def close(self) -> None:
        """Close the engine and free the memory."""
        self._place.close()


class OurSender:
    """Writes a batch of its memory to what was granted."""

    def __init__(self, place: Place, timeout: float) -> None:
        self._place, self._timeout = place, timeout
        self._link: Link | None = None
        self._batch = np.empty((0, 3), np.int64)
        self._grants: list[Grant] = []

    @property
    def memory(self) -> Memory:
        """What is sent."""
        return self._place.memory

    def connect(self, address: str) -> None:
        """Open the link."""
        self._link = self._place.connect(address)

    def arrange(self, plan: Plan, tickets: Sequence[dict[str, Any]]) -> None:
        """Make the table of blocks, and take the grants."""
        self._batch = plan.batch()
        self._grants = [Grant.from_dict(each) for each in reversed(tickets)]

    def move(self) -> None:
        """One batch, to its end: all bytes in place and verified by the receiver."""
        assert self._link is not None
        grant = self._grants.pop()
        transfer = self._link.write(
            grant, self._place.region, self._batch, timeout=self._timeout, note=NOTE
        )
        transfer.wait()

    def close(self) -> None:
        """Close the link and the engine, and free the memory."""
        if self._link is not None:
            self._link.close()
        self._place.close()
