"""The faults that the transport within a process makes on demand."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from prefillshare.errors import (
    TransferBroken,
    TransferError,
    TransferIntegrityError,
    TransferTimeout,
)
from prefillshare.transfer import local
from prefillshare.transfer.base import Access, Outcome
from prefillshare.transfer.memory import Fault, MemoryEngine, MemoryNetwork
from tests.transfer.pairs import SECONDS, Ends, noise, nothing_left_behind

BATCH = np.array([[0, 0, 1000]])


@pytest.fixture
def network() -> Iterator[MemoryNetwork]:
    with nothing_left_behind():
        yield MemoryNetwork(slice_bytes=100, faults=[None])


@pytest.fixture
def engines(network: MemoryNetwork) -> Iterator[tuple[MemoryEngine, MemoryEngine]]:
    several = network.engine(), network.engine()
    yield several
    for each in several:
        each.close()


@pytest.mark.parametrize("access", ["read", "write"])
@pytest.mark.parametrize(
    ("fault", "error", "moved"),
    [
        (Fault.CORRUPT, TransferIntegrityError, 0),
        (Fault.BREAK, TransferBroken, 500),
        (Fault.TIMEOUT, TransferTimeout, 0),
    ],
)
def test_a_fault_fails_one_transfer_and_the_next_works(
    network: MemoryNetwork,
    engines: tuple[MemoryEngine, MemoryEngine],
    access: Access,
    fault: Fault,
    error: type[TransferError],
    moved: int,
) -> None:
    lender, mover = engines
    ends, data = Ends(), noise(1000)
    memory = np.zeros(1000, np.uint8)
    source, target = (data, memory) if access == "read" else (memory, data)
    region = lender.register(source.data)
    near = mover.register(target.data)
    link = mover.connect(lender.address)
    call = link.read if access == "read" else link.write
    # The first transfer takes the `None` that the network began with.
    begin = lender.grant(region, np.array([[0, 1]]), access, lambda _: None)
    call(begin, near, np.array([[0, 0, 1]]), timeout=SECONDS).wait()
    network.script(fault, None)
    grant = lender.grant(region, np.array([[0, 1000]]), access, ends)
    failing = call(grant, near, BATCH, timeout=0.1)
    with pytest.raises(error):
        failing.wait()
    assert failing.progress[0] == moved
    assert not ends.told
    call(grant, near, BATCH, timeout=SECONDS).wait()
    assert (source == target).all() and source.any()
    assert ends.one().outcome is Outcome.DONE


def test_a_transfer_that_stalls_can_be_withdrawn(
    network: MemoryNetwork, engines: tuple[MemoryEngine, MemoryEngine]
) -> None:
    lender, mover = engines
    ends = Ends()
    region = lender.register(noise(1000).data)
    grant = lender.grant(region, np.array([[0, 1000]]), "read", ends)
    network.next_fault()
    network.script(Fault.TIMEOUT)
    near = mover.register(noise(1000).data)
    link = mover.connect(lender.address)
    transfer = link.read(grant, near, BATCH, timeout=SECONDS)
    lender.revoke(grant.grant_id)
    # It may not have got there yet: then it is refused.
    with pytest.raises(TransferError):
        transfer.wait(SECONDS / 2)
    assert ends.one().outcome is Outcome.REVOKED


def test_memory_that_is_not_let_go_of_stays_registered(
    engines: tuple[MemoryEngine, MemoryEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "STOP_SECONDS", 0.01)
    lender, ends = engines[0], Ends()
    region = lender.register(noise(1000).data)
    grant = lender.grant(region, np.array([[0, 1000]]), "read", ends)
    shown = bytes.fromhex(grant.grant_id), bytes.fromhex(grant.capability)
    loan = lender.table.enter(*shown, "read", lambda _: None)
    with pytest.raises(TransferTimeout, match="do not free the memory"):
        lender.deregister(region)
    lender.table.leave(loan, None)
    assert ends.one().outcome is Outcome.REVOKED
    lender.deregister(region)
