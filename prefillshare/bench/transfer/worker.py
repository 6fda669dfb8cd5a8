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
from prefillshare.bench.transfer.shapes import Plan, buffer, check, fill

Facts = dict[str, Any]
SPEC: TypeAdapter[Ours | Bare] = TypeAdapter(Ours | Bare)


class Worker:
    """Either end of a pair. `answer` runs an order by its name."""

    def __init__(self, spec: Facts, size: int, timeout: float) -> None:
        self.spec = SPEC.validate_python(spec)
        self.memory = buffer(size)
        self.timeout = timeout

    def answer(self, order: str, arguments: Facts) -> Facts:
        """What an order found."""
        run: Callable[..., Facts | None] = getattr(self, order)
        return run(**arguments) or {}

    def usage(self) -> Facts:
        """Seconds of processor time so far, and resident bytes now and at most."""
        pid = os.getpid()
        # Ticks are coarse; this process's own time is known more finely.
        others = usage.cpu_seconds(pid) - sum(os.times()[:2])
        resident, peak = usage.resident_bytes(pid), usage.peak_bytes(pid)
        cpu = max(others, 0.0) + time.process_time()
        return {"cpu": cpu, "resident": resident, "peak": peak}


class ReceivingWorker(Worker):
    """Holds the memory that is written to."""

    def __init__(self, spec: Facts, size: int, timeout: float) -> None:
        super().__init__(spec, size, timeout)
        self.mover: Receiver = make_receiver(self.spec, self.memory, timeout)

    def address(self) -> Facts:
        """Where it listens."""
        return {"address": self.mover.address}

    def arrange(self, plan: Facts, count: int) -> Facts:
        """Clear the memory and be ready; returns the tickets."""
        self.memory[:] = 0
        return {"tickets": self.mover.arrange(Plan(**plan), count)}

    def clear(self) -> None:
        """Forget what came, and the peak of memory."""
        self.memory[:] = 0
        usage.reset_peak(os.getpid())

    def check(self, plan: Facts, seed: int) -> Facts:
        """Whether all transfers have come and left the sender's bytes, all of them."""
        self.mover.settle()
        return {"verified": check(self.memory, Plan(**plan), seed)}

    def close(self) -> None:
        """Free everything."""
        self.mover.close()


class SendingWorker(Worker):
    """Holds the memory that is sent, and the clock."""

    def __init__(self, spec: Facts, size: int, timeout: float) -> None:
        super().__init__(spec, size, timeout)
        self.mover: Sender = make_sender(self.spec, self.memory, timeout)
        self.tickets: list[Facts] = []

    def connect(self, address: str) -> None:
        """Reach the receiver."""
        self.mover.connect(address)

    def arrange(self, plan: Facts, seed: int, tickets: list[Facts]) -> None:
        """Fill the memory with what is to arrive, and take the tickets."""
        which = Plan(**plan)
        fill(self.memory[: which.size], seed)
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
