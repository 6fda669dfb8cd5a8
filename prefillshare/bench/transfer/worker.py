"""One of the two processes of a measurement: it answers JSON lines.

    python -m prefillshare.bench.transfer.worker sender|receiver

Every line is an order with its arguments; every answer is a line, of the results or of
an error. Its own output goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any

from pydantic import TypeAdapter

from prefillshare.bench.transfer import usage
from prefillshare.bench.transfer.decode import decoding
from prefillshare.bench.transfer.movers import (
    Receiver,
    Sender,
    make_receiver,
    make_sender,
)
from prefillshare.bench.transfer.settings import Bare, Ours
from prefillshare.bench.transfer.shapes import Plan, check, fill

Facts = dict[str, Any]
SPEC: TypeAdapter[Ours | Bare] = TypeAdapter(Ours | Bare)


class Worker:
    """Either end of a pair, its helpers included."""

    def answer(self, order: str, arguments: Facts) -> Facts:
        """Run an order by its name; what it found."""
        run: Callable[..., Facts | None] = getattr(self, order)
        return run(**arguments) or {}

    def usage(self) -> Facts:
        """Seconds of processor time so far, and resident bytes now and at most."""
        mine, *others = usage.family(os.getpid())
        # Ticks are coarse; this process's own time is known more finely.
        cpu = time.process_time() + sum(map(usage.cpu_seconds, others))
        resident = sum(usage.resident_bytes(each) or 0 for each in (mine, *others))
        peak = sum(usage.peak_bytes(each) or 0 for each in (mine, *others))
        return {"cpu": cpu, "resident": resident, "peak": peak}


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
        for each in usage.family(os.getpid()):
            usage.reset_peak(each)

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
        self, spec: Facts, size: int, timeout: float, certificates: str | None
    ) -> None:
        folder = Path(certificates) if certificates else None
        who = SPEC.validate_python(spec)
        self.mover: Sender = make_sender(who, size, timeout, folder)
        self.tickets: list[Facts] = []

    def connect(self, address: str) -> None:
        """Reach the receiver."""
        self.mover.connect(address)

    def arrange(self, plan: Facts, seed: int, tickets: list[Facts]) -> None:
        """Fill the memory with what is to arrive, and take the tickets."""
        which = Plan(**plan)
        fill(self.mover.memory[: which.size], seed)
        self.mover.arrange(which)
        self.tickets = tickets[::-1]

    def move(self, count: int, busy: bool = False) -> Facts:
        """Transfers one after the other, and the seconds of each."""
        seconds = []
        with decoding() if busy else nullcontext():
            for _ in range(count):
                ticket = self.tickets.pop()
                began = time.perf_counter()
                self.mover.move(ticket)
                seconds.append(time.perf_counter() - began)
        return {"seconds": seconds}

    def close(self) -> None:
        """Free everything."""
        self.mover.close()


ROLES: dict[str, type[Worker]] = {
    "receiver": ReceivingWorker,
    "sender": SendingWorker,
}


def serve(role: str, asked: IO[str], answers: IO[str]) -> int:
    """Answer orders until there are no more; the first one makes the worker."""
    worker: Worker | None = None
    for line in asked:
        try:
            order, arguments = json.loads(line)
            if worker is None:
                worker, found = ROLES[role](**arguments), {}
            else:
                found = worker.answer(order, arguments)
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(found) + "\n")
        answers.flush()
    return 0


def main(argv: Sequence[str]) -> int:
    """Serve on standard input and output."""
    # Whatever a library prints must not run into the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return serve(argv[0], sys.stdin, answers)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
