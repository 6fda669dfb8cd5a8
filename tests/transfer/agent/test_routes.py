"""A peer that is reached by another address than its grants name is still that peer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from prefillshare.errors import TransferIdentityError, TransferRefused
from prefillshare.transfer.agent.client import AgentEngine
from prefillshare.transfer.agent.server import Agent
from prefillshare.transfer.arena import Arena
from prefillshare.transfer.base import Grant, TransferStats
from prefillshare.transfer.secure.contexts import SecuritySettings
from prefillshare.transfer.tcp.engine import TcpEngine
from tests.transfer.networked import SETTINGS, security
from tests.transfer.pairs import LONG, at_once
from tests.transfer.tap import tapped

SIZE = 100_000
# Found in what passes if it is not encrypted.
PLAIN = bytes(range(256)) * 8


@contextmanager
def lender(keys: SecuritySettings | None) -> Iterator[tuple[TcpEngine, Grant]]:
    """An engine that lends `PLAIN`, over and over."""
    engine = TcpEngine(settings=SETTINGS, security=keys)
    try:
        lent = engine.register(memoryview(bytearray((PLAIN * SIZE)[:SIZE])))
        whole = np.array([[0, SIZE]])
        yield engine, engine.grant(lent, whole, "read", lambda _: None)
    finally:
        engine.close()


def pull(
    folder: Path, grant: Grant, route: str, keys: SecuritySettings | None
) -> TransferStats:
    """Read the grant in a worker whose agent reaches the lender by `route`."""
    engine = TcpEngine(settings=SETTINGS, security=keys)
    # In whole pages.
    arena = Arena(SIZE + 4096, writers=True)
    agent = Agent(str(folder / "socket"), engine, arena, {grant.address: route})
    worker = AgentEngine(agent.path)
    try:
        part = worker.allocate(SIZE)
        region = worker.register(part)
        link = worker.connect(grant.address)
        batch = np.array([[0, 0, SIZE]])
        stats = link.read(grant, region, batch, timeout=LONG).wait()
        assert bytes(part) == (PLAIN * SIZE)[:SIZE]
        return stats
    finally:
        worker.close()
        agent.close()


@pytest.mark.parametrize("sites", [("east", "west"), ("east", "east"), None], ids=str)
def test_bytes_go_by_the_route_and_sealed_between_sites(
    tmp_path: Path, sites: tuple[str, str] | None
) -> None:
    keys: list[SecuritySettings | None] = [None, None]
    if sites is not None:
        keys = [security(tmp_path, f"host{i}", site) for i, site in enumerate(sites)]
    with lender(keys[0]) as (engine, grant), tapped(engine.address) as tap:
        stats = pull(tmp_path, grant, tap.address, keys[1])
        assert stats.bytes == SIZE
        assert stats.sealed == (sites == ("east", "west"))
        assert len(tap.seen) > SIZE
        assert (PLAIN in tap.seen) != stats.sealed
        # The capability travels by TLS wherever there are certificates.
        assert (bytes.fromhex(grant.capability) in tap.seen) == (sites is None)


def test_another_engine_at_the_end_of_a_route_is_not_taken_for_the_lender(
    tmp_path: Path,
) -> None:
    with lender(None) as (_, grant), lender(None) as (other, _):
        with at_once(), pytest.raises(TransferIdentityError, match="now listens at"):
            pull(tmp_path, grant, other.address, None)


def test_a_stranger_at_the_end_of_a_route_is_turned_away(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("ours", "theirs")]
    ours, here = (security(folders[0], n, f"site-{n}") for n in ("a", "b"))
    theirs = security(folders[1], "a", "site-a")
    with lender(ours) as (_, grant), lender(theirs) as (other, _):
        with at_once(), pytest.raises(TransferRefused, match="authority"):
            pull(tmp_path, grant, other.address, here)
