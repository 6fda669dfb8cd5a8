"""Blocks lent through the agents of hosts: each loan is read once, and ends once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prefillshare.errors import (
    CapacityError,
    ConfigError,
    TransferEnded,
    TransferRefused,
    TransferTimeout,
)
from prefillshare.serving.host import Host, PoolMemory
from prefillshare.transfer.agent.server import Agent
from prefillshare.transfer.arena import Arena
from prefillshare.transfer.base import Grant, Region
from prefillshare.transfer.tcp.engine import TcpEngine
from prefillshare.transfer.tcp.settings import TcpSettings
from tests.transfer.pairs import SECONDS, Ends, noise, until

BLOCKS, SIZE = 8, 5000
LENT, INTO = [5, 0, 3, 7], [2, 1, 6, 4]
LEASE = 60.0


class Pair:
    """A lender of noise and a reader, and how often the lender's blocks came back."""

    def __init__(self, lender: Host, reader: Host) -> None:
        self.lender, self.reader = lender, reader
        self.source, self.target = (h.pool(BLOCKS, SIZE) for h in (lender, reader))
        self.source.view[:] = noise(BLOCKS * SIZE).data
        self.target.view[:] = bytes(BLOCKS * SIZE)
        self.releases = 0

    def lend(self, lease: float = LEASE) -> Grant:
        def release() -> None:
            self.releases += 1

        return self.lender.lend(self.source, LENT, release, lease)

    def pull(self, grant: Grant) -> int:
        """Read it into `INTO`; the bytes that moved."""
        transfer = self.reader.pull(grant, self.target, INTO, SECONDS)
        return transfer.wait(SECONDS).bytes

    def released(self) -> None:
        until(lambda: self.releases > 0)


def block(memory: PoolMemory, number: int) -> bytes:
    return bytes(memory.view[number * SIZE : (number + 1) * SIZE])


@pytest.fixture
def pair(new_host: Callable[[], Host]) -> Iterator[Pair]:
    made = Pair(new_host(), new_host())
    yield made
    made.lender.end_loans()
    made.lender.close()
    assert made.releases == 1


def test_blocks_arrive_in_order_and_nothing_else_changes(pair: Pair) -> None:
    assert pair.pull(pair.lend()) == len(LENT) * SIZE
    for lent, into in zip(LENT, INTO, strict=True):
        assert block(pair.target, into) == block(pair.source, lent)
    untouched = set(range(BLOCKS)) - set(INTO)
    assert all(block(pair.target, each) == bytes(SIZE) for each in untouched)
    pair.released()
    assert pair.lender.bytes_sent == len(LENT) * SIZE
    assert pair.reader.bytes_sent == 0


def test_a_loan_is_read_once(pair: Pair) -> None:
    grant = pair.lend()
    pair.pull(grant)
    pair.released()
    with pytest.raises(TransferRefused):
        pair.pull(grant)


def test_a_stranger_is_refused_and_the_owner_is_still_served(pair: Pair) -> None:
    grant = pair.lend()
    with pytest.raises(TransferRefused):
        pair.pull(replace(grant, capability="0" * 64))
    assert pair.releases == 0
    pair.pull(grant)
    pair.released()


def test_a_loan_that_is_withdrawn_is_released_and_refused(pair: Pair) -> None:
    grant = pair.lend()
    pair.lender.withdraw(grant.grant_id)
    pair.released()
    pair.lender.withdraw(grant.grant_id)
    with pytest.raises(TransferRefused):
        pair.pull(grant)
    assert pair.lender.bytes_sent == 0


def test_a_loan_ends_with_its_lease(pair: Pair) -> None:
    grant = pair.lend(lease=0.01)
    pair.released()
    with pytest.raises(TransferRefused):
        pair.pull(grant)


def test_a_lender_that_ends_its_loans_has_them_back(pair: Pair) -> None:
    grant = pair.lend()
    pair.lender.end_loans()
    assert pair.releases == 1
    with pytest.raises(TransferRefused):
        pair.pull(grant)
    with pytest.raises(ValueError, match="not registered"):
        pair.lend()


def test_a_loan_that_is_withdrawn_while_it_is_read(tmp_path: Path) -> None:
    # At 16 kB a second it is not read to its end before it is withdrawn.
    slow = TcpEngine(settings=TcpSettings(rate_gbps=128e-6, slice_bytes=4096))
    agent = Agent(str(tmp_path / "socket"), slow, Arena(1 << 20, writers=True))
    pair = Pair(*(Host(Path(agent.path)) for _ in range(2)))
    try:
        grant = pair.lend()
        transfer = pair.reader.pull(grant, pair.target, INTO, SECONDS)
        until(lambda: transfer.progress[0] > 0)
        pair.lender.withdraw(grant.grant_id)
        with pytest.raises(TransferEnded, match="withdrew"):
            transfer.wait(SECONDS)
        pair.released()
    finally:
        for host in (pair.lender, pair.reader):
            host.close()
        agent.close()
    assert pair.releases == 1


def test_a_pool_beyond_the_arena_is_refused(new_host: Callable[[], Host]) -> None:
    with pytest.raises(CapacityError, match="give the agent a larger arena"):
        new_host().pool(1 << 30, 1 << 10)


def test_a_worker_without_an_agent_is_told_what_to_start() -> None:
    with pytest.raises(ConfigError, match="serve agent.*serve all"):
        Host(None)


LEND_AND_WAIT = """
import sys
from pathlib import Path
from prefillshare.serving.host import Host

host = Host(Path(sys.argv[1]))
memory = host.pool(8, 5000)
grant = host.lend(memory, [0, 1, 2, 3], lambda: None, 60.0)
sys.stdout.write(grant.grant_id + " " + grant.capability + "\\n")
sys.stdout.flush()
sys.stdin.read()
"""


def test_nothing_is_left_of_a_worker_that_is_killed(
    agent: Agent, new_host: Callable[[], Host]
) -> None:
    reader = new_host()
    target = reader.pool(BLOCKS, SIZE)
    free = agent.free_bytes
    command = [sys.executable, "-c", LEND_AND_WAIT, agent.path]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        grant_id, capability = process.stdout.readline().split()
        assert agent.free_bytes < free
        os.kill(process.pid, signal.SIGKILL)
        process.wait(SECONDS)
    until(lambda: agent.free_bytes == free)
    mine = Ends()
    region = target.region
    whole = np.array([[0, len(INTO) * SIZE]])
    known = reader._engine.grant(region, whole, "read", mine)
    grant = replace(known, grant_id=grant_id, capability=capability)
    with pytest.raises(TransferRefused):
        reader.pull(grant, target, INTO, SECONDS).wait(SECONDS)


def test_memory_that_a_peer_will_not_let_go_of_is_named(
    new_host: Callable[[], Host],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    host = new_host()
    host.pool(2, SIZE)
    host.pool(2, SIZE)

    def held(region: Region) -> None:
        raise TransferTimeout(f"region {region.number} is still read")

    monkeypatch.setattr(host._engine, "deregister", held)
    host.end_loans()
    assert [record.message for record in caplog.records] == [
        "region 2 is still read",
        "region 1 is still read",
    ]
    host.close()
