"""A process of a soak: one engine, which lends and moves as it is told.

Usage: python -m tests.transfer.soak.peer

Orders are lines of JSON on stdin, each is answered by a line on stdout, in any order;
the process ends with its input.
"""

from __future__ import annotations

import faulthandler
import json
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from prefillshare.errors import TransferError
from prefillshare.transfer.agent.client import AgentEngine
from prefillshare.transfer.agent.server import Agent
from prefillshare.transfer.arena import Arena
from prefillshare.transfer.base import (
    Engine,
    Grant,
    GrantEnd,
    Link,
    Region,
    Transfer,
)
from prefillshare.transfer.secure.contexts import SecuritySettings
from prefillshare.transfer.tcp.engine import TcpEngine
from prefillshare.transfer.tcp.link import TcpLink
from prefillshare.transfer.tcp.settings import TcpSettings
from tests.transfer.pairs import until
from tests.transfer.soak.cases import Bytes, Case, Layout, digest
from tests.transfer.soak.vitals import vitals

Facts = dict[str, Any]
# Those of the plain mode's largest are such that no packet wakes their receiver.
SETTINGS = TcpSettings(streams=3, dead_seconds=10, retry_seconds=0.01)
SHORT = SETTINGS.model_copy(update={"slice_bytes": 1 << 16})
# For what ends by itself, so that nothing hangs for ever.
SECONDS = 60.0
ORDERS = 12


@dataclass
class Loan:
    """What was lent, and what its owner was told of the end."""

    layout: Layout
    memory: memoryview
    region: Region
    changed: threading.Condition = field(default_factory=threading.Condition)
    ends: list[GrantEnd] = field(default_factory=list)
    grant: Grant | None = None

    def on_end(self, end: GrantEnd) -> None:
        """See `Engine.grant`."""
        with self.changed:
            self.ends.append(end)
            self.changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Whether it ended in time."""
        with self.changed:
            return self.changed.wait_for(lambda: bool(self.ends), seconds)


@dataclass
class Move:
    """A transfer, and the memory on this side."""

    layout: Layout
    memory: memoryview
    region: Region
    transfer: Transfer | None = None
    error: Exception | None = None


class Peer:
    """Carries out orders; each is a method, its arguments those of the order."""

    def __init__(self) -> None:
        self.engine: Engine
        self.agent: Agent | None = None
        self.links: dict[str, Link] = {}
        self.linking = threading.Lock()
        self.loans: dict[int, Loan] = {}
        self.moves: dict[int, Move] = {}

    def open(self, port: int, files: Facts | None) -> Facts:
        """An engine of this process, sealed if there are files of a certificate."""
        self.engine = _engine(port, files)
        return {"address": self.engine.address}

    def host(self, path: str, arena_bytes: int, routes: dict[str, str]) -> Facts:
        """An agent, whose engine this process has from here on."""
        engine, arena = _engine(0, None), Arena(arena_bytes, writers=True)
        self.agent = Agent(path, engine, arena, routes)
        return {"address": engine.address, "free": self.agent.free_bytes}

    def work(self, path: str) -> Facts:
        """The engine of an agent."""
        self.engine = AgentEngine(path)
        return {"address": self.engine.address}

    def lend(self, case: Facts, lease: float) -> Facts:
        """Grant the lender's side of a case."""
        layout = Layout(Case(**case))
        memory, region = self._memory(layout.lender)
        loan = self.loans[case["number"]] = Loan(layout, memory, region)
        grant = self.engine.grant(
            region, layout.ranges, layout.access, loan.on_end, lease
        )
        loan.grant = grant
        return {"grant": grant.to_dict()}

    def revoke(self, number: int) -> Facts:
        """Withdraw a grant."""
        grant = self.loans[number].grant
        assert grant is not None
        self.engine.revoke(grant.grant_id)
        return {}

    def leave(self, number: int) -> Facts:
        """Deregister what was lent."""
        self.engine.deregister(self.loans[number].region)
        return {}

    def ended(self, number: int) -> Facts:
        """Wait until a grant is over."""
        return {"ended": self.loans[number].wait(SECONDS)}

    def settle(self, number: int, seconds: float, left: bool) -> Facts:
        """End a grant that is not over within so many seconds, and tell all of it."""
        loan = self.loans.pop(number)
        loan.wait(seconds)
        if not left:
            assert loan.grant is not None
            self.engine.revoke(loan.grant.grant_id)
            self.engine.deregister(loan.region)
        ended = loan.wait(SECONDS)
        ends = [[end.outcome.value, end.note.hex(), end.bytes] for end in loan.ends]
        return {"ended": ended, "ends": ends, **self._let_go(loan)}

    def start(
        self, case: Facts, grant: Facts, to: str, timeout: float, forged: bool
    ) -> Facts:
        """Begin a transfer; one that is fed gets its first half, which has moved."""
        spec, found = Case(**case), Grant.from_dict(grant)
        if forged:
            found = replace(found, capability="5" * len(found.capability))
        move = self.moves.get(spec.number)
        if move is None:
            layout = Layout(spec)
            memory, region = self._memory(layout.mover)
            move = self.moves[spec.number] = Move(layout, memory, region)
        move.transfer = move.error = None
        try:
            self._start(move, spec, found, self._link(to), timeout)
        except (TransferError, AssertionError) as error:
            move.error = error
        return {}

    def _start(
        self, move: Move, case: Case, grant: Grant, link: Link, timeout: float
    ) -> None:
        begin = link.read if case.access == "read" else link.write
        batch = None if case.fed else move.layout.batch
        note = str(case.number).encode()
        made = begin(grant, move.region, batch, timeout=timeout, note=note)
        move.transfer = made
        if case.fed:
            half = move.layout.batch[: case.rows // 2]
            made.add(half)
            size = int(half[:, 2].sum())
            until(lambda: made.done or made.progress == (size, size))

    def end(self, number: int, act: str) -> Facts:
        """Have a transfer go on to its end, cancel it, or just wait for it."""
        move = self.moves[number]
        if move.transfer is not None:
            try:
                self._end(move, move.transfer, act)
            except TransferError as error:
                # One that hung at its start says so.
                if not isinstance(move.error, AssertionError):
                    move.error = error
        name = type(move.error).__name__ if move.error else None
        return {"error": name, "text": str(move.error or "")}

    def _end(self, move: Move, transfer: Transfer, act: str) -> None:
        fed = transfer.progress[1] < move.layout.batch[:, 2].sum()
        if act == "go on" and fed:
            # What it failed with is told by `wait`.
            with suppress(TransferError):
                transfer.add(move.layout.batch[len(move.layout.batch) // 2 :])
                transfer.finish()
        if act == "cancel" or isinstance(move.error, AssertionError):
            transfer.cancel()
        transfer.wait(SECONDS)

    def moved(self, number: int) -> Facts:
        """Tell all of a transfer that is over."""
        move = self.moves.pop(number)
        self.engine.deregister(move.region)
        return self._let_go(move)

    def vitals(self, links: list[str], streams: int) -> Facts:
        """See `vitals`, once every link has its streams back."""
        for to in links:
            link = self._link(to)
            if isinstance(link, TcpLink):
                until(partial(_has, link, streams))
        return vitals()

    def free(self) -> Facts:
        """What the agent's workers have not taken."""
        assert self.agent is not None
        return {"free": self.agent.free_bytes}

    def _link(self, to: str) -> Link:
        with self.linking:
            if to not in self.links:
                self.links[to] = self.engine.connect(to)
            return self.links[to]

    def _memory(self, data: Bytes) -> tuple[memoryview, Region]:
        if isinstance(self.engine, AgentEngine):
            memory = self.engine.allocate(len(data))
        else:
            memory = memoryview(bytearray(len(data)))
        memory[:] = data.data
        return memory, self.engine.register(memory)

    def _let_go(self, held: Loan | Move) -> Facts:
        found = np.frombuffer(held.memory, np.uint8).copy()
        if isinstance(self.engine, AgentEngine):
            self.engine.release(held.memory)
        return {"whole": digest(found), "rim": held.layout.rim(found)}


def _has(link: TcpLink, streams: int) -> bool:
    return len(link.streams()) == streams


def _engine(port: int, files: Facts | None) -> TcpEngine:
    security, settings = None, SETTINGS
    if files is not None:
        settings = SHORT
        paths = {name: Path(path) for name, path in files.items()}
        security = SecuritySettings.model_validate(paths)
    return TcpEngine(f"tcp://127.0.0.1:{port}", settings, security)


def main() -> None:
    """Carry out what is asked."""
    # One that hangs says where.
    faulthandler.register(signal.SIGUSR1)
    peer, telling = Peer(), threading.Lock()

    def carry_out(order: Facts) -> None:
        number, act = order.pop("id"), getattr(peer, order.pop("do"))
        answer = _answer(act, order)
        with telling:
            sys.stdout.write(json.dumps({"id": number, **answer}) + "\n")
            sys.stdout.flush()

    with ThreadPoolExecutor(ORDERS, thread_name_prefix="order") as pool:
        for line in sys.stdin:
            pool.submit(carry_out, json.loads(line))


def _answer(act: Callable[..., Facts], arguments: Facts) -> Facts:
    try:
        return act(**arguments)
    except BaseException as error:
        return {"failed": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    main()
