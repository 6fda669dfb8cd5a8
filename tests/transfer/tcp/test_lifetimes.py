"""What a session keeps of transfers and streams that are over: nothing."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import numpy as np
import pytest

from prefillshare.errors import TransferBroken
from prefillshare.transfer.base import Grant
from prefillshare.transfer.tcp.engine import TcpEngine
from prefillshare.transfer.tcp.link import TcpLink
from prefillshare.transfer.tcp.session import Session
from prefillshare.transfer.tcp.settings import ACCEPTED_STREAMS
from prefillshare.transfer.tcp.slices import Cuts
from prefillshare.transfer.tcp.transfer import TcpTransfer
from tests.transfer.networked import SETTINGS
from tests.transfer.pairs import SECONDS, Ends, nothing_left_behind, until

SIZE = 50_000


class Two:
    """A lender, a mover and the session between them."""

    def __init__(self) -> None:
        self.lender = TcpEngine(settings=SETTINGS)
        self.mover = TcpEngine(settings=SETTINGS)
        self.link: TcpLink = self.mover.connect(self.lender.address)
        self.into = self.mover.register(memoryview(bytearray(SIZE)))

    @property
    def session(self) -> Session:
        found = self.link._session
        assert found is not None
        return found

    def grant(self, memory: bytearray) -> Grant:
        region, ends = self.lender.register(memoryview(memory)), Ends()
        return self.lender.grant(region, np.array([[0, SIZE]]), "read", ends)

    def read(self, grant: Grant) -> None:
        whole = np.array([[0, 0, SIZE]])
        self.link.read(grant, self.into, whole, timeout=SECONDS).wait()


@pytest.fixture
def two() -> Iterator[Two]:
    with nothing_left_behind():
        made = Two()
        yield made
        made.mover.close()
        made.lender.close()


def test_memory_of_a_read_that_is_over_is_free(two: Two) -> None:
    memory = bytearray(SIZE)
    grant = two.grant(memory)
    two.read(grant)
    until(lambda: not two.lender.table._kept)
    for region in list(two.lender._regions.values()):
        two.lender.deregister(region)
        del region
    gc.collect()
    # It cannot grow while anything sees it.
    memory.append(1)


def test_a_transfer_of_a_session_that_is_over_is_over(two: Two) -> None:
    session = two.session
    grant = two.grant(bytearray(SIZE))
    session.end(TransferBroken("for the test"))
    session.join()
    made = TcpTransfer(session, 1, grant, two.into, SECONDS, None)
    with pytest.raises(TransferBroken, match="for the test"):
        made.open(b"")
    assert made.done
    with pytest.raises(TransferBroken, match="for the test"):
        made.wait(0)


def test_a_session_has_so_many_streams_at_most(two: Two) -> None:
    most = SETTINGS.open_streams
    assert most == 2 * ACCEPTED_STREAMS
    several = range(SETTINGS.streams + 1, most + 1)
    agreed, dialler = two.session.agreed, two.link._dialler
    socks = [dialler.dial_stream(agreed, number, SECONDS) for number in several]
    with pytest.raises(TransferBroken, match="set `streams` alike"):
        dialler.dial_stream(agreed, most + 1, SECONDS)
    for sock in socks:
        sock.close()
    # The lender has asked what arrived by them, and needs no socket for that any more.
    two.read(two.grant(bytearray(SIZE)))


def test_parts_that_make_too_many_slices_together_are_refused() -> None:
    cuts = Cuts(4096)
    cuts.check([4096 << 21, 4096 << 21])
    with pytest.raises(ValueError, match="more than 4194304 slices"):
        cuts.check([4096 << 21, 4096 << 21, 1])
