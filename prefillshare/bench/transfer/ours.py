"""This project's engine in the benchmark: a grant a transfer, written to and noted."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from prefillshare.bench.transfer.settings import Ours
from prefillshare.bench.transfer.shapes import Memory, Plan
from prefillshare.errors import ConfigError, TransferError, TransferTimeout
from prefillshare.transfer.base import Engine, Grant, GrantEnd, Link, Outcome

NOTE = b"written"


def make_engine(transport: str, listen: str, settings: Ours) -> Engine:
    """The engine that a contestant's settings mean.

    Raises `ConfigError` for settings that there is no engine for.
    """
    raise ConfigError(
        f"{settings.name}: there is no engine over {transport} to listen at {listen}; "
        "measure another transport"
    )


class OurReceiver:
    """Grants its memory, whole, for one transfer at a time."""

    def __init__(self, spec: Ours, memory: Memory, timeout: float) -> None:
        self._timeout = timeout
        self._engine = make_engine(spec.transport, "tcp://127.0.0.1:0", spec)
        self._region = self._engine.register(memory.data)
        self._ends: list[GrantEnd] = []
        self._expected = 0
        self._told = threading.Condition()

    @property
    def address(self) -> str:
        """The engine's."""
        return self._engine.address

    def arrange(self, plan: Plan, count: int) -> list[dict[str, Any]]:
        """Issue all grants."""
        self._ends, self._expected = [], count
        whole = np.array([[0, plan.size]], np.int64)
        return [
            self._engine.grant(
                self._region, whole, "write", self._end, lease_seconds=self._timeout
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
        """Close the engine."""
        self._engine.close()


class OurSender:
    """Writes a batch of its memory to what was granted."""

    def __init__(self, spec: Ours, memory: Memory, timeout: float) -> None:
        self._timeout = timeout
        self._engine = make_engine(spec.transport, "tcp://127.0.0.1:0", spec)
        self._region = self._engine.register(memory.data)
        self._link: Link | None = None
        self._batch = np.empty((0, 3), np.int64)

    def connect(self, address: str) -> None:
        """Open the link."""
        self._link = self._engine.connect(address)

    def arrange(self, plan: Plan) -> None:
        """Make the table of blocks."""
        self._batch = plan.batch()

    def move(self, ticket: dict[str, Any]) -> None:
        """One batch, to its end: all bytes in place and verified by the receiver."""
        assert self._link is not None
        grant = Grant.from_dict(ticket)
        transfer = self._link.write(
            grant, self._region, self._batch, timeout=self._timeout, note=NOTE
        )
        transfer.wait()

    def close(self) -> None:
        """Close the link and the engine."""
        if self._link is not None:
            self._link.close()
        self._engine.close()
