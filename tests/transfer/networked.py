"""Pairs of engines that meet over sockets."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from prefillshare.transfer.agent.client import AgentEngine
from prefillshare.transfer.agent.server import Agent
from prefillshare.transfer.arena import Arena
from prefillshare.transfer.base import Region
from prefillshare.transfer.secure.authority import issue, make_authority
from prefillshare.transfer.secure.contexts import SecuritySettings
from prefillshare.transfer.secure.identity import PeerIdentity
from prefillshare.transfer.tcp.engine import TcpEngine
from prefillshare.transfer.tcp.settings import TcpSettings
from tests.transfer.pairs import Bytes, Clock, Pair, _of_memory

SETTINGS = TcpSettings(streams=3, slice_bytes=8192)
ARENA_BYTES = 4 << 20


def security(
    folder: Path, host: str, site: str, region: str = "eu"
) -> SecuritySettings:
    """A certificate of the authority in `folder`, which is made with the first."""
    if not (folder / "ca.pem").exists():
        make_authority(folder)
    made = issue(folder, PeerIdentity(region, site, host))
    return SecuritySettings(
        ca=folder / "ca.pem", certificate=made.certificate, key=made.key
    )


@contextmanager
def tcp_pair(
    folder: Path, *, secure: bool = False, host: str = "127.0.0.1"
) -> Iterator[Pair]:
    """Within a site, with checksums; or between two sites, sealed."""
    clock = Clock()
    keys = [security(folder, n, f"site-{n}") if secure else None for n in ("a", "b")]
    listen = f"tcp://{host}:0"
    lender = TcpEngine(listen, SETTINGS, keys[0], clock=clock)
    mover = TcpEngine(listen, SETTINGS, keys[1])

    def make(data: Bytes) -> Region:
        return lender.register(data.copy().data)

    link = mover.connect(lender.address)
    yield Pair(lender, mover, link, clock, make, _of_memory, lender.table.recheck)


@dataclass
class HostedPair(Pair):
    """Memory comes from the arenas of two hosts, whose agents outlive their workers."""

    agents: list[Agent] = field(default_factory=list)

    def leave(self) -> None:
        """The lender's host is gone."""
        self.agents[0].close()

    def target(self, size: int) -> tuple[Bytes, Region]:
        """Zeros of the mover's arena."""
        assert isinstance(self.mover, AgentEngine)
        part = self.mover.allocate(size)
        memory = np.frombuffer(part, np.uint8)
        memory[:] = 0
        return memory, self.mover.register(part)


@contextmanager
def agent_pair(folder: Path) -> Iterator[Pair]:
    """Workers of two hosts, each through its agent."""
    clock = Clock()
    hosts = [TcpEngine(settings=SETTINGS, clock=clock) for _ in range(2)]
    agents = [
        Agent(str(folder / f"{n}.sock"), host, Arena(ARENA_BYTES, writers=True))
        for n, host in enumerate(hosts)
    ]
    lender, mover = (AgentEngine(agent.path) for agent in agents)

    def make(data: Bytes) -> Region:
        part = lender.allocate(len(data))
        part[:] = data.data
        return lender.register(part)

    link = mover.connect(lender.address)
    recheck = hosts[0].table.recheck
    yield HostedPair(
        lender, mover, link, clock, make, _of_memory, recheck, agents=agents
    )
    for agent in agents:
        agent.close()


NETWORKED: dict[str, Callable[[Path], AbstractContextManager[Pair]]] = {
    "tcp": tcp_pair,
    "ipv6": functools.partial(tcp_pair, host="::1"),
    "sealed": functools.partial(tcp_pair, secure=True),
    "agent": agent_pair,
}
