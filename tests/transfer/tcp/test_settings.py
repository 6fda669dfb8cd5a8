"""What an engine does by default."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from prefillshare.transfer.agent.client import AgentEngine
from prefillshare.transfer.agent.server import Agent
from prefillshare.transfer.arena import Arena
from prefillshare.transfer.tcp.engine import TcpEngine
from prefillshare.transfer.tcp.settings import TcpSettings
from tests.transfer.pairs import SECONDS, Ends, nothing_left_behind


@pytest.mark.parametrize(
    ("size", "pieces", "sealed", "expected"),
    [
        (1 << 30, 1, False, 4 << 20),
        (1 << 30, 1024, True, 4 << 20),
        (1 << 30, 16384, False, 2 << 20),
        (1 << 30, 16384, True, 1 << 20),
        (400_000_000, 100_000, False, 1 << 20),
        # Each of two streams has a few.
        (16 << 20, 1, False, 2 << 20),
        (1 << 20, 1, False, 1 << 20),
        # Nobody knows yet what is fed.
        (0, 1, False, 1 << 20),
    ],
)
def test_slices_are_large_where_that_pays(
    size: int, pieces: int, sealed: bool, expected: int
) -> None:
    settings = TcpSettings(streams=2)
    assert settings.slices_of(size, pieces, sealed=sealed) == expected


def test_slices_are_as_they_are_set_or_small_for_the_sake_of_a_cap() -> None:
    own = TcpSettings(slice_bytes=12345)
    assert own.slices_of(1 << 30, 1, sealed=False) == 12345
    capped = TcpSettings(rate_gbps=1.0)
    assert capped.slices_of(1 << 30, 1, sealed=False) == 1 << 20


@contextmanager
def asked() -> Iterator[list[tuple[int, int]]]:
    """Of what size and in how many pieces transfers were, as settings were told."""
    found, slices_of = [], TcpSettings.slices_of

    def watch(own: TcpSettings, size: int, pieces: int, *, sealed: bool) -> int:
        found.append((size, pieces))
        return slices_of(own, size, pieces, sealed=sealed)

    with patch.object(TcpSettings, "slices_of", watch):
        yield found


def test_a_transfer_is_cut_by_its_batch_in_process_and_through_an_agent(
    tmp_path: Path,
) -> None:
    block, count = 1 << 16, 6
    size = block * count
    # Every other two are neighbours on both sides.
    order = np.array([2, 3, 0, 1, 4, 5]) * block
    batch = np.stack([order, order, np.full(count, block)], axis=1)
    path = str(tmp_path / "agent.sock")
    with nothing_left_behind("memfd"), asked() as found:
        lender, mover = TcpEngine(), TcpEngine()
        lent = lender.register(memoryview(bytearray(size)))
        agent = Agent(path, TcpEngine(), Arena(2 * size, writers=True))
        worker = AgentEngine(path)
        for engine, memory in (
            (mover, memoryview(bytearray(size))),
            (worker, worker.allocate(size)),
        ):
            grant = lender.grant(lent, np.array([[0, size]]), "read", Ends())
            region, link = engine.register(memory), engine.connect(lender.address)
            link.read(grant, region, batch, timeout=SECONDS).wait()
        del memory, region
        worker.close()
        for ended in (mover, agent, lender):
            ended.close()
    assert found == [(size, 3), (size, 3)]


@pytest.mark.parametrize(("cores", "streams"), [(1, 2), (2, 2), (3, 3), (64, 4)])
def test_there_is_a_stream_for_each_core_two_to_four(cores: int, streams: int) -> None:
    with patch("os.sched_getaffinity", return_value=set(range(cores))):
        assert TcpSettings().streams == streams
