"""What peers are told of where an agent is reached."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from prefillshare.errors import ConfigError
from prefillshare.transfer.agent.advertise import advertised, is_wildcard
from prefillshare.transfer.agent.client import AgentEngine
from prefillshare.transfer.agent.server import Agent
from prefillshare.transfer.agent.settings import AgentSettings
from prefillshare.transfer.arena import Arena
from prefillshare.transfer.discovery.base import Entry
from prefillshare.transfer.discovery.fixed import FixedDirectory
from prefillshare.transfer.secure.identity import PeerIdentity
from prefillshare.transfer.tcp.engine import TcpEngine
from prefillshare.transfer.tcp.sockets import parse_address
from tests.serving.agents import SIZE, agent_process
from tests.transfer.networked import SETTINGS, security
from tests.transfer.pairs import SECONDS, noise

KEYS = {"ca": "ca.pem", "certificate": "a.pem", "key": "a.key"}
WILD = ["0.0.0.0", "[::]", "0", "[::ffff:0.0.0.0]", "[0:0::0]"]


@pytest.mark.parametrize("host", WILD)
def test_a_wildcard_is_told_to_nobody(host: str) -> None:
    assert is_wildcard(f"tcp://{host}:7000")
    settings = {"socket": "s", "arena_bytes": 1, "security": KEYS}
    listens = settings | {"listen": f"tcp://{host}:7000"}
    with pytest.raises(ValidationError, match="every address of this machine.*`adv"):
        AgentSettings.model_validate(listens)
    with pytest.raises(ValidationError, match="every address of this machine.*`adv"):
        AgentSettings.model_validate(settings | {"advertise": host})
    made = AgentSettings.model_validate(listens | {"advertise": "kv.example.org"})
    assert made.listen == f"tcp://{host}:7000"


@pytest.mark.parametrize(
    ("advertise", "told"),
    [
        (None, "tcp://0.0.0.0:7000"),
        ("10.0.0.5", "tcp://10.0.0.5:7000"),
        ("10.0.0.5:9", "tcp://10.0.0.5:9"),
        ("kv.example.org:9", "tcp://kv.example.org:9"),
        ("2001:db8::1", "tcp://[2001:db8::1]:7000"),
        ("[2001:db8::1]", "tcp://[2001:db8::1]:7000"),
        ("[2001:db8::1]:9", "tcp://[2001:db8::1]:9"),
    ],
)
def test_what_is_told_is_what_was_set(advertise: str | None, told: str) -> None:
    assert advertised("tcp://0.0.0.0:7000", advertise) == told


@pytest.mark.parametrize(
    "advertise", ["", "10.0.0.5:0", "10.0.0.5:x", ":9", "tcp://10.0.0.5:9", "h:99999"]
)
def test_what_is_no_address_is_refused(advertise: str) -> None:
    with pytest.raises(ValueError, match="is no host|has no port|nobody reaches"):
        advertised("tcp://0.0.0.0:7000", advertise)


def test_an_agent_of_a_wildcard_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TcpEngine()
    monkeypatch.setattr(engine._listener, "address", "tcp://0.0.0.0:7000")
    path, arena = str(tmp_path / "socket"), Arena(4096, writers=True)
    with pytest.raises(ConfigError, match="every address of this machine"):
        Agent(path, engine, arena)
    Agent(path, engine, arena, advertise="10.0.0.5").close()


def test_grants_and_the_directory_have_what_is_told(tmp_path: Path) -> None:
    keys = [security(tmp_path, host, f"of-{host}") for host in ("a", "b")]
    who = PeerIdentity("eu", "of-a", "a")
    files = json.dumps(keys[0].model_dump(mode="json"))
    with agent_process(tmp_path, f"security={files}", "advertise=localhost") as (
        _,
        address,
    ):
        host, port = parse_address(address)
        assert host == "localhost" and port > 0
        worker = AgentEngine(str(tmp_path / "socket"))
        part = worker.allocate(SIZE // 2)
        part[:] = noise(SIZE // 2).data
        whole = np.array([[0, SIZE // 2]])
        grant = worker.grant(worker.register(part), whole, "read", lambda _: None)
        assert grant.address == worker.address == address
        # Peers that know no more than that reach it.
        directory = FixedDirectory({who: grant.address})
        mover = TcpEngine(settings=SETTINGS, security=keys[1], directory=directory)
        target = bytearray(SIZE // 2)
        into, batch = mover.register(memoryview(target)), np.array([[0, 0, SIZE // 2]])
        link = mover.connect(who.uri)
        link.read(grant, into, batch, timeout=SECONDS).wait()
        assert target == noise(SIZE // 2).tobytes()
        mover.close()
        worker.close()
    told = directory.register(Entry(who, address, "0a" * 16))
    assert told.holds


def test_an_agent_registers_what_is_told(tmp_path: Path) -> None:
    files = json.dumps(security(tmp_path, "a", "of-a").model_dump(mode="json"))
    with agent_process(tmp_path) as (_, free):
        port = parse_address(free)[1]
    # A written directory takes no other address than it has.
    settings = [
        f"listen=tcp://127.0.0.1:{port}",
        f"security={files}",
        f"advertise=localhost:{port}",
        f"discovery={{peers: {{eu/of-a/a: 'tcp://localhost:{port}'}}}}",
    ]
    with agent_process(tmp_path, *settings) as (_, address):
        assert address == f"tcp://localhost:{port}"
