"""What a worker's engine makes of an agent that hangs, or is gone."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from prefillshare.errors import TransferBroken, TransferTimeout
from prefillshare.transfer.agent import client, connection
from prefillshare.transfer.agent.client import AgentEngine
from prefillshare.transfer.agent.server import Agent
from prefillshare.transfer.arena import Arena
from prefillshare.transfer.base import Outcome
from prefillshare.transfer.tcp.engine import TcpEngine
from tests.serving.agents import agent_process
from tests.transfer.pairs import LONG, Ends, until

WHOLE = np.array([[0, 100]])


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[AgentEngine]:
    agent = Agent(str(tmp_path / "socket"), TcpEngine(), Arena(1 << 16, writers=True))
    made = AgentEngine(agent.path)
    yield made
    made.close()
    agent.close()


def test_an_owner_is_told_once_though_the_connection_ends_as_well(
    worker: AgentEngine, caplog: pytest.LogCaptureFixture
) -> None:
    region = worker.register(worker.allocate(100))
    several = [Ends() for _ in range(5)]
    # The rest is heard of, and not passed on yet, when the connection ends.
    worker.grant(
        region, WHOLE, "read", lambda _: until(lambda: worker._agent._gone is not None)
    )
    for ends in several:
        worker.grant(region, WHOLE, "read", ends)
    with caplog.at_level(logging.ERROR):
        worker.close()
    assert {ends.one().outcome for ends in several} == {Outcome.CLOSED}
    assert caplog.records == []


def test_an_agent_that_hangs_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 0.05)
    with agent_process(tmp_path) as (process, _):
        worker = AgentEngine(str(tmp_path / "socket"))
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        try:
            with pytest.raises(TransferTimeout, match=r"not answered for 0\.05 s"):
                worker.allocate(100)
        finally:
            os.kill(process.pid, signal.SIGCONT)
            worker.close()


def test_memory_that_an_agent_may_still_move_stays_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lender = TcpEngine()
    lent = lender.register(memoryview(bytearray(100)))
    grant = lender.grant(lent, WHOLE, "read", Ends())
    with agent_process(tmp_path) as (process, _):
        worker = AgentEngine(str(tmp_path / "socket"))
        region = worker.register(worker.allocate(100))
        link = worker.connect(lender.address)
        transfer = link.read(grant, region, timeout=LONG)
        monkeypatch.setattr(client, "ANSWER_SECONDS", 0.05)
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        try:
            with pytest.raises(TransferTimeout, match="still"):
                worker.deregister(region)
            assert worker.offset_of(region) == 0 and not transfer.done
        finally:
            os.kill(process.pid, signal.SIGCONT)
        monkeypatch.undo()
        worker.deregister(region)
        assert transfer.done
        worker.close()
    lender.close()


def test_an_agent_that_is_gone_is_said_and_its_grants_are_over(tmp_path: Path) -> None:
    with agent_process(tmp_path) as (process, _):
        worker = AgentEngine(str(tmp_path / "socket"))
        ends = Ends()
        region = worker.register(worker.allocate(100))
        worker.grant(region, WHOLE, "read", ends)
        process.kill()
        assert ends.one().outcome is Outcome.CLOSED
        with pytest.raises(TransferBroken, match="the agent is gone"):
            worker.grant(region, WHOLE, "read", ends)
        worker.close()
        assert len(ends.told) == 1
