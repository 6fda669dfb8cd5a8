"""Workers and agents that are killed, stopped, or have nothing left to work with."""

from __future__ import annotations

import os
import resource
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from prefillshare.errors import (
    CapacityError,
    ConfigError,
    TransferBroken,
    TransferEnded,
    TransferError,
)
from prefillshare.transfer.agent.client import AgentEngine
from prefillshare.transfer.agent.server import Agent
from prefillshare.transfer.arena import Arena
from prefillshare.transfer.base import Access, Grant, GrantEnd, Outcome
from prefillshare.transfer.tcp.engine import TcpEngine
from prefillshare.transfer.tcp.sockets import format_address
from tests.serving.agents import SIZE, agent_process
from tests.transfer.pairs import (
    LONG,
    SECONDS,
    Ends,
    at_once,
    noise,
    nothing_left_behind,
    until,
)
from tests.transfer.tcp.far import Far
from tests.transfer.tcp.rig import SETTINGS

BOTH = pytest.mark.parametrize("access", ["read", "write"])
PART = SIZE // 2
WHOLE = np.array([[0, 0, PART]])


@dataclass
class Host:
    """An agent of this process, and an engine of another host."""

    agent: Agent
    other: TcpEngine

    def lend(self, access: Access) -> tuple[Grant, bytearray, Ends]:
        """Grant memory of the other host."""
        full = noise(PART).tobytes() if access == "read" else bytes(PART)
        memory, ends = bytearray(full), Ends()
        region = self.other.register(memoryview(memory))
        grant = self.other.grant(region, np.array([[0, PART]]), access, ends)
        return grant, memory, ends

    def pull(self, grant: Grant) -> None:
        """Read all of a worker's grant."""
        memory = bytearray(grant.size)
        region = self.other.register(memoryview(memory))
        link = self.other.connect(grant.address)
        batch = np.array([[0, 0, grant.size]])
        link.read(grant, region, batch, timeout=SECONDS).wait()
        assert memory == noise(grant.size).tobytes()
        link.close()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with nothing_left_behind("memfd"):
        engines = [TcpEngine(settings=SETTINGS) for _ in range(2)]
        arena = Arena(SIZE, writers=True)
        made = Host(Agent(str(tmp_path / "agent"), engines[0], arena), engines[1])
        yield made
        made.other.close()
        made.agent.close()


@BOTH
def test_a_worker_that_is_killed_while_it_moves_frees_what_it_held(
    host: Host, access: Access
) -> None:
    grant, memory, ends = host.lend(access)
    with Far() as far, Far() as another:
        for each in (far, another):
            each.ask("work", path=host.agent.path)
            each.ask("connect", address=grant.address)
        far.ask("start", grant=grant.to_dict())
        with at_once():
            far.kill()
            until(lambda: host.agent.free_bytes == SIZE)
        assert not ends.told
        another.ask("start", grant=grant.to_dict())
        assert another.ask("finish") == PART and another.ask("whole")
    assert ends.one() == GrantEnd(Outcome.DONE, b"", PART)
    assert memory == noise(PART).tobytes()


def test_a_worker_that_is_killed_while_it_lends_frees_what_it_held(host: Host) -> None:
    with Far() as far:
        far.ask("work", path=host.agent.path)
        grant = far.lend("read", PART)
        region = host.other.register(memoryview(bytearray(PART)))
        link = host.other.connect(grant.address)
        transfer = link.read(grant, region, timeout=LONG)
        transfer.add(WHOLE // 2)
        until(lambda: transfer.progress[0] == PART // 2)
        with at_once():
            far.kill()
            with pytest.raises(TransferEnded, match="withdrew"):
                transfer.wait(LONG)
            until(lambda: host.agent.free_bytes == SIZE)
    with Far() as far:
        far.ask("work", path=host.agent.path)
        # All of the arena, and the link that is there already.
        whole = far.lend("read", SIZE)
        host.pull(whole)


def test_an_arena_that_is_used_up_is_an_error_until_somebody_leaves(
    host: Host,
) -> None:
    worker = AgentEngine(host.agent.path)
    with Far() as far:
        far.ask("work", path=host.agent.path)
        far.lend("read", SIZE)
        with at_once():
            with pytest.raises(CapacityError, match=f"0 of {SIZE}"):
                worker.allocate(1)
            far.kill()
            until(lambda: host.agent.free_bytes == SIZE)
        worker.allocate(1)
    worker.close()


def test_a_worker_that_reads_nothing_holds_no_other_up(host: Host) -> None:
    count = 1000
    with Far() as far:
        far.ask("work", path=host.agent.path)
        grants = far.ask("lend_often", count=count, size=100)
        far.signal(signal.SIGSTOP)
        link = host.other.connect(host.agent.engine.address)
        region = host.other.register(memoryview(bytearray(100)))
        batch = np.array([[0, 0, 100]])
        # The agent has more to tell of these than its connection to the worker holds.
        for grant in map(Grant.from_dict, grants):
            link.read(grant, region, batch, timeout=SECONDS).wait()
        worker, ends = AgentEngine(host.agent.path), Ends()
        part = worker.allocate(100)
        part[:] = noise(100).tobytes()
        whole = np.array([[0, 100]])
        host.pull(worker.grant(worker.register(part), whole, "read", ends))
        assert ends.one().outcome is Outcome.DONE
        worker.close()
        far.signal(signal.SIGCONT)
        far.ask("ended_often", count=count)


def test_a_peer_that_does_not_answer_holds_no_other_up(host: Host) -> None:
    grant, _, ends = host.lend("read")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = format_address(*silent.getsockname())
        worker = AgentEngine(host.agent.path)
        region = worker.register(worker.allocate(PART))
        failed: list[str] = []

        def connect() -> None:
            with pytest.raises(TransferBroken) as error:
                worker.connect(address, timeout=1.0)
            failed.append(str(error.value))

        waiting = threading.Thread(target=connect)
        waiting.start()
        peer, _ = silent.accept()
        link = worker.connect(grant.address)
        link.read(grant, region, WHOLE, timeout=SECONDS).wait()
        assert not failed
        waiting.join()
        assert "no answer" in failed[0]
        peer.close()
        worker.close()
    assert ends.one().outcome is Outcome.DONE


@BOTH
def test_an_agent_that_is_killed_is_an_error_on_both_sides(
    host: Host, tmp_path: Path, access: Access
) -> None:
    grant, memory, ends = host.lend(access)
    with agent_process(tmp_path) as (process, address):
        worker, told = AgentEngine(str(tmp_path / "socket")), Ends()
        part, lent = worker.allocate(PART), worker.allocate(100)
        part[:] = noise(PART).tobytes() if access == "write" else bytes(PART)
        lent[:] = noise(100).tobytes()
        link = worker.connect(grant.address)
        begin = link.read if access == "read" else link.write
        transfer = begin(grant, worker.register(part), timeout=LONG)
        transfer.add(WHOLE // 2)
        until(lambda: transfer.progress[0] == PART // 2)
        hundred = np.array([[0, 100]])
        theirs = worker.grant(worker.register(lent), hundred, "read", told)
        with at_once():
            process.kill()
            with pytest.raises(TransferBroken, match="agent is gone"):
                transfer.wait(LONG)
            assert told.one() == GrantEnd(Outcome.CLOSED)
            with pytest.raises(TransferBroken, match="agent is gone"):
                worker.allocate(1)
            worker.close()
        with pytest.raises(TransferBroken):
            host.other.connect(theirs.address)
        assert not ends.told
    # Another takes its place, under the same path and address.
    with agent_process(tmp_path, f"listen={address}"):
        worker = AgentEngine(str(tmp_path / "socket"))
        part = worker.allocate(PART)
        part[:] = noise(PART).tobytes() if access == "write" else bytes(PART)
        again = worker.connect(grant.address)
        begin = again.read if access == "read" else again.write
        begin(grant, worker.register(part), WHOLE, timeout=SECONDS).wait()
        assert bytes(part) == memory == noise(PART).tobytes()
        assert ends.one() == GrantEnd(Outcome.DONE, b"", PART)
        worker.close()


def test_an_agent_without_descriptors_keeps_its_workers(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with agent_process(tmp_path) as (process, _):
        worker = AgentEngine(path)
        open_now = len(os.listdir(f"/proc/{process.pid}/fd"))
        before = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (open_now, before[1]))
        # The one that it waited for has its descriptor already.
        lucky = AgentEngine(path)
        with pytest.raises(TransferBroken, match="no agent answers"):
            AgentEngine(path, timeout=0.5)
        worker.allocate(1)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, before)
        AgentEngine(path).close()
        for each in (worker, lucky):
            each.close()


def test_an_agent_without_memory_lets_only_who_asks_for_it_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    path = str(tmp_path / "socket")
    with agent_process(tmp_path) as (process, _):
        worker, greedy = AgentEngine(path), AgentEngine(path)
        region = greedy.register(greedy.allocate(100))
        pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[0])
        before = resource.prlimit(process.pid, resource.RLIMIT_AS)
        limit = pages * resource.getpagesize() + (1 << 22)
        resource.prlimit(process.pid, resource.RLIMIT_AS, (limit, before[1]))
        many = np.tile(np.array([[0, 100]]), (1 << 21, 1))
        with at_once(), pytest.raises(TransferError):
            greedy.grant(region, many, "read", lambda _: None)
        worker.allocate(100)
        resource.prlimit(process.pid, resource.RLIMIT_AS, before)
        greedy.close()
        # What it had is free again, and only that is not which the other has.
        until(lambda: _fits(worker, SIZE - 4096))
        worker.close()


def _fits(worker: AgentEngine, size: int) -> bool:
    try:
        worker.allocate(size)
    except CapacityError:
        return False
    return True


def test_an_agent_that_still_listens_is_not_replaced(host: Host) -> None:
    engine = TcpEngine()
    with at_once(), pytest.raises(ConfigError, match="cannot listen there"):
        Agent(host.agent.path, engine, Arena(4096, writers=True))
    AgentEngine(host.agent.path).close()
    engine.close()


def test_what_is_known_of_the_hosts_connections_reaches_a_worker(host: Host) -> None:
    grant, _, ends = host.lend("read")
    worker = AgentEngine(host.agent.path)
    link = worker.connect(grant.address)
    region = worker.register(worker.allocate(PART))
    link.read(grant, region, WHOLE, timeout=SECONDS).wait()
    streams = link.streams()
    assert len(streams) == SETTINGS.streams
    assert sum(each.bytes_received for each in streams) == PART
    assert all(each.rtt_seconds > 0 for each in streams)
    assert ends.one().outcome is Outcome.DONE
    worker.close()
