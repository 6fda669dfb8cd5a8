"""Agents that cannot begin."""

from pathlib import Path

import pytest

from prefillshare.errors import TransferBroken
from prefillshare.transfer.agent.server import Agent
from prefillshare.transfer.arena import Arena
from prefillshare.transfer.tcp.engine import TcpEngine
from tests.transfer.pairs import no_thread, nothing_left_behind


@pytest.mark.parametrize("name", ["agent-timer", "agent"])
def test_an_agent_without_threads_is_none(tmp_path: Path, name: str) -> None:
    path = tmp_path / "agent.sock"
    with nothing_left_behind():
        engine, arena = TcpEngine(), Arena(4096, writers=True)
        with no_thread(name), pytest.raises(TransferBroken, match="for an agent"):
            Agent(str(path), engine, arena)
        assert not path.exists()
