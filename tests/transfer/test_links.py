"""Threads that begin transfers over one link at once, and one that closes it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest

from prefillshare.errors import TransferClosed
from prefillshare.transfer.agent.link import AgentLink, AgentTransfer
from prefillshare.transfer.base import Grant, Link, Region
from prefillshare.transfer.memory import MemoryNetwork
from tests.transfer.pairs import SECONDS, nothing_left_behind

Begin = Callable[[], AgentTransfer]


class Meeting:
    """An earlier transfer, at which two threads meet that look whether it is over."""

    def __init__(self) -> None:
        self._both = threading.Barrier(2)

    @property
    def done(self) -> bool:
        # Under a lock they never do.
        with suppress(threading.BrokenBarrierError):
            self._both.wait(0.5)
        return False

    def stop(self, cause: Exception) -> None:
        """It is none."""


class Agent:
    """An agent that carries nothing out, and is told what to cancel."""

    def __init__(self) -> None:
        self._lock, self._last = threading.Lock(), 0
        self.cancelled: set[int] = set()
        self.while_asked: Callable[[], None] = lambda: None

    def ask(self, body: Mapping[str, Any], blob: bytes = b"") -> Mapping[str, Any]:
        raise NotImplementedError

    def tell(self, body: Mapping[str, Any]) -> None:
        assert body["do"] == "cancel"
        self.cancelled.add(int(body["number"]))

    def number(self) -> int:
        with self._lock:
            self._last += 1
            return self._last

    def offset_of(self, region: Region) -> int:
        return 0

    def begin(
        self, transfer: AgentTransfer, body: Mapping[str, Any], blob: bytes
    ) -> None:
        self.while_asked()


def together(begin: Callable[[], object]) -> None:
    """Two threads do it."""
    threads = [threading.Thread(target=begin) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)


@contextmanager
def agent_link() -> Iterator[tuple[Agent, AgentLink, Begin]]:
    agent = Agent()
    link = AgentLink(agent, "tcp://127.0.0.1:1")
    into = Region(1, memoryview(bytearray(10)))
    grant = Grant(link._address, "0" * 32, "0" * 32, "0" * 64, "read", 10)
    yield agent, link, lambda: link.read(grant, into, timeout=SECONDS)


def test_transfers_of_a_worker_that_began_at_once_are_all_cancelled() -> None:
    with agent_link() as (agent, link, begin):
        link._mine.append(Meeting())  # type: ignore[arg-type]
        together(begin)
        link.close()
        assert agent.cancelled == {1, 2}


def test_a_transfer_of_a_worker_that_begins_as_the_link_is_closed_ends() -> None:
    with agent_link() as (agent, link, begin):
        agent.while_asked = link.close
        assert isinstance(begin().cause, TransferClosed)
        assert agent.cancelled == {1}
        with pytest.raises(TransferClosed, match="connect again"):
            begin()


def test_transfers_that_began_at_once_are_all_cancelled() -> None:
    with nothing_left_behind():
        network = MemoryNetwork()
        lender, mover = network.engine(), network.engine()
        link = mover.connect(lender.address)
        region = lender.register(memoryview(bytearray(10)))
        into = mover.register(memoryview(bytearray(10)))
        begun = []

        def begin() -> None:
            whole = np.array([[0, 10]])
            lent = lender.grant(region, whole, "read", lambda _: None)
            begun.append(link.read(lent, into, timeout=SECONDS))

        link._mine.add(Meeting())  # type: ignore[arg-type]
        together(begin)
        assert len(begun) == 2
        link.close()
        for transfer in begun:
            with pytest.raises(TransferClosed, match="the link was closed"):
                transfer.wait(SECONDS / 2)
        mover.close()
        lender.close()


def test_a_transfer_that_starts_as_the_link_is_closed_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with nothing_left_behind():
        network = MemoryNetwork()
        lender, mover = network.engine(), network.engine()
        link: Link = mover.connect(lender.address)
        whole = np.array([[0, 10]])
        region = lender.register(memoryview(bytearray(10)))
        into = mover.register(memoryview(bytearray(10)))
        lent = lender.grant(region, whole, "read", lambda _: None)
        find = network.find

        def closed(address: str) -> object:
            link.close()
            return find(address)

        monkeypatch.setattr(network, "find", closed)
        with pytest.raises(TransferClosed, match="connect again"):
            link.read(lent, into, timeout=SECONDS)
        mover.close()
        lender.close()
