"""A peer that reads nothing: its transfers wait for it, and nothing else does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from prefillshare.errors import TransferClosed, TransferError
from prefillshare.transfer.agent.client import AgentEngine
from prefillshare.transfer.agent.link import AgentTransfer
from prefillshare.transfer.agent.server import Agent
from prefillshare.transfer.arena import Arena
from prefillshare.transfer.base import Grant, Outcome
from prefillshare.transfer.tcp.engine import TcpEngine
from prefillshare.transfer.tcp.link import TcpLink
from tests.transfer.pairs import LONG, Ends, at_once, nothing_left_behind, until
from tests.transfer.tcp.far import Far
from tests.transfer.tcp.test_unread import PATIENT, silent_lender

ARENA_BYTES, PART = 1 << 20, 1 << 12
LENT = 1 << 24
WHOLE = np.array([[0, PART]])


@dataclass
class Host:
    """An agent, and a peer of it that reads nothing."""

    agent: Agent
    grant: Grant

    @property
    def link(self) -> TcpLink:
        """To the peer."""
        found = self.agent.known(self.grant.address)
        assert isinstance(found, TcpLink)
        return found

    def clogged(self) -> None:
        """Wait until the peer has been told all that it takes, and not more."""
        left: list[int] = []

        def stands() -> bool:
            session = self.link._session
            left.append(len(session._outbox._rest) if session else 0)
            return left[-1] > 0 and left[-200:] == [left[-1]] * 200

        until(stands)

    @contextmanager
    def flooded(self) -> Iterator[Far]:
        """A worker that waits in `add` for the peer to read."""
        with Far() as far:
            far.ask("work", path=self.agent.path)
            far.ask("connect", address=self.grant.address)
            far.tell("flood", grant=self.grant.to_dict())
            self.clogged()
            yield far
            far.kill()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with nothing_left_behind("memfd"), silent_lender() as address:
        arena = Arena(ARENA_BYTES, writers=True)
        agent = Agent(str(tmp_path / "agent"), TcpEngine(settings=PATIENT), arena)
        grant = Grant(address, "66" * 16, "0" * 32, "0" * 64, "write", LENT)
        yield Host(agent, grant)
        agent.close()


@contextmanager
def failing(call: Callable[[], object]) -> Iterator[list[Exception]]:
    """Call on a thread; its error is there, at once, when the block is over."""
    failed: list[Exception] = []

    def run() -> None:
        try:
            call()
        except TransferError as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield failed
    with at_once():
        thread.join()


def test_a_transfer_that_waits_is_cancelled_at_once_and_holds_nothing_up(
    host: Host,
) -> None:
    worker = AgentEngine(host.agent.path)
    link = worker.connect(host.grant.address)
    region, ends = worker.register(worker.allocate(PART)), Ends()
    transfer = link.write(host.grant, region, timeout=LONG)
    remote = 16 * np.arange(1 << 20)
    table = np.column_stack([np.zeros_like(remote), remote, np.ones_like(remote)])
    with failing(lambda: transfer.add(table)) as failed:
        host.clogged()
        with at_once():
            # Everything else that a worker asks is answered meanwhile.
            part = worker.allocate(PART)
            lent = worker.grant(worker.register(part), WHOLE, "read", ends)
            worker.revoke(lent.grant_id)
            assert ends.one().outcome is Outcome.REVOKED
            worker.release(part)
            assert not failed and not transfer.done
            transfer.cancel()
            with pytest.raises(TransferClosed, match="cancelled on this side"):
                transfer.wait(LONG)
    worker.close()


def test_a_transfer_that_waits_to_begin_is_cancelled_at_once(host: Host) -> None:
    with host.flooded():
        worker = AgentEngine(host.agent.path)
        link = worker.connect(host.grant.address)
        region = worker.register(worker.allocate(PART))
        begun: list[AgentTransfer] = []

        def begin() -> None:
            begun.append(link.write(host.grant, region, timeout=LONG))
            begun[0].wait(LONG)

        with failing(begin) as failed:
            until(lambda: len(host.link._under_way) == 2)
            assert not begun and not failed
            with at_once():
                worker.deregister(region)
        assert isinstance(failed[0], TransferClosed)
        worker.close()


@pytest.mark.parametrize("waits", ["to begin", "to add"])
def test_a_worker_that_is_killed_while_it_waits_frees_what_it_held(
    host: Host, waits: str
) -> None:
    with host.flooded() as far:
        if waits == "to add":
            with at_once():
                far.kill()
                until(lambda: host.agent.free_bytes == ARENA_BYTES)
            return
        held = host.agent.free_bytes
        with Far() as another:
            another.ask("work", path=host.agent.path)
            another.ask("connect", address=host.grant.address)
            another.tell("flood", grant=host.grant.to_dict())
            until(lambda: len(host.link._under_way) == 2)
            with at_once():
                another.kill()
                until(lambda: host.agent.free_bytes == held)


def test_an_agent_closes_at_once_though_workers_wait(host: Host) -> None:
    with host.flooded(), at_once():
        host.agent.close()
