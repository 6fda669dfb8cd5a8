"""Engines that connect by name: the certificate decides, not the directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from prefillshare.errors import (
    ConfigError,
    DirectoryError,
    TransferIdentityError,
    TransferRefused,
    UnknownPeerError,
)
from prefillshare.transfer.agent.client import AgentEngine
from prefillshare.transfer.agent.server import Agent
from prefillshare.transfer.arena import Arena
from prefillshare.transfer.discovery.base import Directory, Entry
from prefillshare.transfer.discovery.fixed import FixedDirectory
from prefillshare.transfer.discovery.redis import PREFIX
from prefillshare.transfer.discovery.settings import DiscoverySettings, open_directory
from prefillshare.transfer.secure.contexts import SecuritySettings
from prefillshare.transfer.secure.identity import PeerIdentity
from prefillshare.transfer.tcp.engine import TcpEngine
from prefillshare.transfer.tcp.link import TcpLink
from tests.transfer.discovery.server import Server
from tests.transfer.networked import SETTINGS, security
from tests.transfer.pairs import SECONDS, Ends, noise, nothing_left_behind, until

LENDER, MOVER = PeerIdentity("eu", "of-a", "a"), PeerIdentity("eu", "of-b", "b")
OTHER = PeerIdentity("eu", "of-c", "c")
SIZE = 50_000


class Hosts:
    """Engines of hosts that find one another in Redis; all are closed at the end."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.keys = {
            who: security(folder, who.host, who.site) for who in (LENDER, MOVER, OTHER)
        }
        settings = DiscoverySettings.model_validate({"redis": server.url})
        self.directory: Directory = open_directory(settings)
        self.stack = ExitStack()
        self.stack.callback(self.directory.close)

    def engine(self, keys: SecuritySettings | None) -> TcpEngine:
        made = TcpEngine(settings=SETTINGS, security=keys, directory=self.directory)
        self.stack.callback(made.close)
        return made

    def registered(self, who: PeerIdentity) -> TcpEngine:
        engine = self.engine(self.keys[who])
        assert engine.identity == who
        entry = Entry(who, engine.address, engine.engine_id)
        self.stack.callback(self.directory.register(entry).close)
        return engine

    def worker(self, folder: Path) -> AgentEngine:
        """One of the mover's host, whose agent finds others by name."""
        path, engine = str(folder / "agent.sock"), self.engine(self.keys[MOVER])
        agent = Agent(path, engine, Arena(1 << 20, writers=True))
        self.stack.callback(agent.close)
        made = AgentEngine(path)
        self.stack.callback(made.close)
        return made


@pytest.fixture
def hosts(tmp_path: Path, server: Server) -> Iterator[Hosts]:
    with nothing_left_behind():
        made = Hosts(tmp_path, server)
        with made.stack:
            yield made
        del made


def read(lender: TcpEngine, mover: TcpEngine, link: TcpLink) -> None:
    """Move some bytes over a link, and compare them."""
    data, target = noise(SIZE), np.zeros(SIZE, np.uint8)
    region, into = lender.register(data.data), mover.register(target.data)
    grant = lender.grant(region, np.array([[0, SIZE]]), "read", Ends())
    whole = np.array([[0, 0, SIZE]])
    link.read(grant, into, whole, timeout=SECONDS).wait()
    assert (target == data).all()
    lender.deregister(region)
    mover.deregister(into)


def test_a_link_goes_to_the_engine_of_a_host_and_follows_it(hosts: Hosts) -> None:
    lender, mover = hosts.registered(LENDER), hosts.engine(hosts.keys[MOVER])
    link = mover.connect(LENDER.uri)
    read(lender, mover, link)
    assert hosts.directory.find(LENDER).engine == link.peer
    lender.close()
    # It is started again, at another port.
    again = hosts.registered(LENDER)
    read(again, mover, link)
    assert link.peer == again.engine_id != lender.engine_id


def test_another_host_of_the_same_authority_is_not_taken_for_it(
    hosts: Hosts, server: Server
) -> None:
    hosts.registered(LENDER)
    mover = hosts.registered(MOVER)
    # Anybody who can write to Redis can do this.
    forged = server.client.get(PREFIX + MOVER.name)
    assert isinstance(forged, bytes)
    server.client.set(PREFIX + LENDER.name, forged)
    with pytest.raises(TransferIdentityError, match=r"eu/of-b/b answers there.*forged"):
        mover.connect(LENDER.uri)


def test_an_engine_of_no_authority_is_not_taken_for_it(
    hosts: Hosts, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    foreign = hosts.engine(security(tmp_path / "elsewhere", "a", "of-a"))
    plain = hosts.engine(None)
    mover = hosts.engine(hosts.keys[MOVER])
    for engine in (foreign, plain):
        entry = Entry(LENDER, engine.address, engine.engine_id)
        registration = hosts.directory.register(entry)
        with pytest.raises(TransferRefused):
            mover.connect(LENDER.uri)
        registration.close()


def test_without_a_certificate_no_directory_leads_off_this_machine(
    hosts: Hosts,
) -> None:
    plain = hosts.engine(None)
    assert plain.identity is None
    for address in ("tcp://192.0.2.1:9", "shm://@somewhere", "nonsense"):
        registration = hosts.directory.register(Entry(LENDER, address, "0a" * 16))
        with pytest.raises(DirectoryError, match="another machine|is no address"):
            plain.connect(LENDER.uri)
        registration.close()


def test_a_host_that_nobody_registered_is_named(hosts: Hosts, server: Server) -> None:
    mover = hosts.engine(hosts.keys[MOVER])
    with pytest.raises(UnknownPeerError, match="eu/of-a/a"):
        mover.connect(LENDER.uri)
    server.stop()
    with pytest.raises(DirectoryError, match="cannot be reached"):
        mover.connect(LENDER.uri)


def test_names_need_a_directory_and_a_form() -> None:
    with nothing_left_behind():
        engine = TcpEngine()
        with pytest.raises(ConfigError, match="no directory"):
            engine.connect(LENDER.uri)
        engine.close()
        engine = TcpEngine(directory=FixedDirectory({}))
        with pytest.raises(ValueError, match="REGION/SITE/HOST"):
            engine.connect("prefillshare://eu/a")
        engine.close()


def test_a_plain_engine_goes_by_name_within_this_machine() -> None:
    with nothing_left_behind():
        lender = TcpEngine(settings=SETTINGS)
        directory = FixedDirectory({LENDER: lender.address})
        mover = TcpEngine(settings=SETTINGS, directory=directory)
        read(lender, mover, mover.connect(LENDER.uri))
        mover.close()
        lender.close()


def test_streams_are_made_where_the_certificate_was_shown(hosts: Hosts) -> None:
    lender, mover = hosts.registered(LENDER), hosts.engine(hosts.keys[MOVER])
    link = mover.connect(LENDER.uri)
    session = link._session
    assert session is not None
    astray = Entry(LENDER, "tcp://127.0.0.1:9", "0a" * 16)
    hosts.stack.callback(hosts.directory.register(astray).close)
    broken = session.streams()[0]
    broken.shut()
    until(lambda: len(link.streams()) == SETTINGS.streams)
    assert broken.number not in {stream.stream for stream in link.streams()}
    read(lender, mover, link)


def test_workers_go_by_name_through_their_agent(hosts: Hosts, tmp_path: Path) -> None:
    hosts.registered(LENDER)
    worker = hosts.worker(tmp_path)
    worker.connect(LENDER.uri).close()
    with pytest.raises(UnknownPeerError, match="eu/of-b/b"):
        worker.connect(MOVER.uri)


def test_a_name_holds_for_what_a_worker_moves(
    hosts: Hosts, tmp_path: Path, server: Server
) -> None:
    worker = hosts.worker(tmp_path)
    lender, other = hosts.registered(LENDER), hosts.registered(OTHER)
    data, whole = noise(SIZE), np.array([[0, 0, SIZE]])
    into = worker.register(worker.allocate(SIZE))
    link = worker.connect(LENDER.uri)
    grants = [
        each.grant(each.register(data.data), whole[:, 1:], "read", Ends())
        for each in (lender, other)
    ]
    link.read(grants[0], into, whole, timeout=SECONDS).wait()
    assert (np.frombuffer(into.memory, np.uint8) == data).all()
    # Another host answers in its place, and has granted what is asked for.
    lender.close()
    forged = server.client.get(PREFIX + OTHER.name)
    assert isinstance(forged, bytes)
    server.client.set(PREFIX + LENDER.name, forged)
    with pytest.raises(TransferIdentityError, match=r"eu/of-c/c answers there.*forged"):
        link.read(grants[1], into, whole, timeout=SECONDS).wait()
    # It is what was asked for under its own name.
    own = worker.connect(OTHER.uri)
    own.read(grants[1], into, whole, timeout=SECONDS).wait()
