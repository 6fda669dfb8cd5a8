"""`serve agent` with a directory: hosts find one another by name."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest

from prefillshare.cli import main
from prefillshare.transfer.agent.client import AgentEngine
from prefillshare.transfer.discovery.redis import PREFIX
from prefillshare.transfer.secure.contexts import SecuritySettings
from prefillshare.transfer.secure.identity import PeerIdentity
from tests.serving.agents import SIZE, agent_process
from tests.transfer.discovery.server import Server
from tests.transfer.networked import security
from tests.transfer.pairs import SECONDS, noise

LENDER = PeerIdentity("eu", "of-a", "a")


def secured(keys: SecuritySettings, discovery: str) -> list[str]:
    """Settings of an agent with a certificate and a directory."""
    files = json.dumps(keys.model_dump(mode="json"))
    return [f"security={files}", f"discovery={discovery}"]


def test_an_agent_is_found_by_the_name_of_its_host(
    tmp_path: Path, server: Server
) -> None:
    redis = f"{{redis: '{server.url}', lease_seconds: 60}}"
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    keys = [security(tmp_path, name, f"of-{name}") for name in ("a", "b")]
    with (
        agent_process(here, *secured(keys[0], redis)) as (process, address),
        agent_process(there, *secured(keys[1], redis)),
    ):
        lender = AgentEngine(str(here / "socket"))
        mover = AgentEngine(str(there / "socket"))
        try:
            source, target = lender.allocate(SIZE // 2), mover.allocate(SIZE // 2)
            source[:] = noise(SIZE // 2).data
            whole = np.array([[0, SIZE // 2]])
            grant = lender.grant(lender.register(source), whole, "read", lambda _: None)
            assert grant.address == address
            link = mover.connect(LENDER.uri)
            batch, into = np.array([[0, 0, SIZE // 2]]), mover.register(target)
            link.read(grant, into, batch, timeout=SECONDS).wait(SECONDS)
            assert target == source
        finally:
            lender.close()
            mover.close()
        assert len(server.client.keys(f"{PREFIX}*")) == 2
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        # It takes itself out, long before its lease is over.
        assert len(server.client.keys(f"{PREFIX}*")) == 1


@pytest.mark.parametrize(
    ("peers", "said"),
    [
        ("{eu/of-a/a: 'tcp://127.0.0.1:1'}", "make them the same on all hosts"),
        ("{}", "no address"),
    ],
    ids=str,
)
def test_a_written_directory_must_have_the_agents_own_address(
    tmp_path: Path, peers: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = security(tmp_path, "a", "of-a")
    settings = [f"socket={tmp_path / 'socket'}", f"arena_bytes={SIZE}"]
    settings += secured(keys, f"{{peers: {peers}}}")
    words = [word for each in settings for word in ("--set", each)]
    assert main(["serve", "agent", *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "socket").exists()


def test_without_a_certificate_a_host_has_no_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [f"socket={tmp_path / 'socket'}", "arena_bytes=4096", "discovery={}"]
    words = [word for each in settings for word in ("--set", each)]
    assert main(["serve", "agent", *words]) == 2
    assert "`discovery` needs `security`" in capsys.readouterr().err
