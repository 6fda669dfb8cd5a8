"""An inbox whose agent hangs: what may still be written to is not used again."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from prefillshare.errors import TransferTimeout
from prefillshare.kv.layout import KVFormat, KVLayout
from prefillshare.serving.host import Host, PoolMemory
from prefillshare.serving.inbox import Inbox
from prefillshare.serving.messages import PrefillReply
from prefillshare.transfer import pending
from prefillshare.transfer.agent.server import Agent
from prefillshare.transfer.arena import Arena
from prefillshare.transfer.base import Grant, Transfer
from prefillshare.transfer.tcp.engine import TcpEngine
from prefillshare.transfer.tcp.settings import TcpSettings
from tests.serving.agents import agent_process
from tests.transfer.pairs import SECONDS, noise, until

FORM = KVFormat("float64", 16)
LEND, TOKENS = [3, 1], 30


class HangingHost(Host):
    """A host whose agent is stopped as soon as a transfer has begun."""

    def __init__(self, socket: Path, agent: int) -> None:
        super().__init__(socket)
        self._agent = agent
        self.pulled: list[Transfer] = []

    def pull(
        self, grant: Grant, memory: PoolMemory, blocks: Sequence[int], timeout: float
    ) -> Transfer:
        transfer = super().pull(grant, memory, blocks, timeout)
        if not self.pulled:
            os.kill(self._agent, signal.SIGSTOP)
            os.waitid(os.P_PID, self._agent, os.WSTOPPED)
        self.pulled.append(transfer)
        return transfer


@pytest.fixture
def slow_host(tmp_path: Path) -> Iterator[Host]:
    """At 16 kB a second, nothing is there before the other agent is stopped."""
    engine = TcpEngine(settings=TcpSettings(rate_gbps=128e-6))
    agent = Agent(str(tmp_path / "slow"), engine, Arena(1 << 20, writers=True))
    host = Host(Path(agent.path))
    yield host
    host.close()
    agent.close()


def test_blocks_of_a_transfer_that_cannot_be_ended_stay_held(
    tiny_model: PreTrainedModel,
    tmp_path: Path,
    slow_host: Host,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pending, "STOP_SECONDS", 0.05)
    layout = KVLayout.from_config(tiny_model.config)
    size = FORM.bytes_per_block(layout)
    source = slow_host.pool(4, size)
    source.view[:] = noise(4 * size).data

    def offer() -> PrefillReply:
        return PrefillReply(
            grant=slow_host.lend(source, LEND, lambda: None, 60.0),
            blocks=len(LEND),
            bytes_per_block=size,
            tokens=TOKENS,
            cached_tokens=0,
            model_id="",
            kv_format=FORM.to_dict(),
        )

    with agent_process(tmp_path, "tcp.slice_bytes=4096") as (process, _):
        host = HangingHost(tmp_path / "socket", process.pid)
        try:
            inbox = Inbox(layout, FORM, 4, host, timeout=2.0)
            pool = inbox.staging.pool
            with pytest.raises(TransferTimeout, match="memory may still be touched"):
                inbox.fetch(offer(), TOKENS)
            assert pool.free_blocks == pool.num_blocks - len(LEND)
            os.kill(process.pid, signal.SIGCONT)
            until(lambda: host.pulled[0].done)
            inbox._timeout = SECONDS
            cache, stats = inbox.fetch(offer(), TOKENS)
            assert (cache.tokens, stats.bytes) == (TOKENS, len(LEND) * size)
            assert pool.free_blocks == pool.num_blocks
        finally:
            os.kill(process.pid, signal.SIGCONT)
            host.close()
