"""The two processes between which bytes move: one holds what is written to, the other
what is sent, and the clock."""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path

from pydantic import TypeAdapter

from prefillshare.bench.transfer.decode import decoding
from prefillshare.bench.transfer.movers import (
    Receiver,
    Sender,
    make_receiver,
    make_sender,
)
from prefillshare.bench.transfer.orders import Worker
from prefillshare.bench.transfer.processes import Facts
from prefillshare.bench.transfer.shapes import Plan, check, fill
from prefillshare.bench.transfer.specs import Bare, Ours

SPEC: TypeAdapter[Ours | Bare] = TypeAdapter(Ours | Bare)


class ReceivingWorker(Worker):
    """Holds the memory that is written to."""

    def __init__(
        self, spec: Facts, size: int, timeout: float, certificates: str | None
    ) -> None:
        folder = Path(certificates) if certificates else None
        who = SPEC.validate_python(spec)
        self.mover: Receiver = make_receiver(who, size, timeout, folder)

    def address(self) -> Facts:
        """Where it listens."""
        return {"address": self.mover.address}

    def arrange(self, plan: Facts, count: int) -> Facts:
        """Clear the memory and be ready; returns the tickets."""
        self.mover.memory[:] = 0
        return {"tickets": self.mover.arrange(Plan(**plan), count)}

    def clear(self) -> None:
        """Forget what came, and the peak of memory."""
        self.mover.memory[:] = 0
        self.forget_peaks()

    def check(self, plan: Facts, seed: int) -> Facts:
        """Whether all transfers have come and left the sender's bytes, all of them."""
        self.mover.settle()
        return {"verified": check(self.mover.memory, Plan(**plan), seed)}

    def close(self) -> None:
        """Free everything."""
        self.mover.close()


class SendingWorker(Worker):
    """Holds the memory that is sent, and the clock."""

    def __init__(
        self,
        spec: Facts,
        size: int,
        timeout: float,
        certificates: str | None,
        routes: dict[str, str],
    ) -> None:
        folder = Path(certificates) if certificates else None
        who = SPEC.validate_python(spec)
        self.mover: Sender = make_sender(who, size, timeout, folder, routes)

    def connect(self, address: str) -> None:
        """Reach the receiver."""
        self.mover.connect(address)

    def arrange(self, plan: Facts, seed: int, tickets: list[Facts]) -> None:
        """Fill the memory with what is to arrive, and take the tickets."""
        which = Plan(**plan)
        fill(self.mover.memory[: which.size], seed)
        self.mover.arrange(which, tickets)

    def move(self, count: int, busy: bool = False) -> Facts:
        """Transfers one after the other, and the seconds of each."""
        seconds = []
        with decoding() if busy else nullcontext():
            for _ in range(count):
                began = time.perf_counter()
                self.mover.move()
                seconds.append(time.perf_counter() - began)
        return {"seconds": seconds}

    def close(self) -> None:
        """Free everything."""
        self.mover.close()
