"""Processes that share memory and are killed, or have nothing left to share it with."""

from __future__ import annotations

import secrets
import signal
from collections.abc import Iterator

import numpy as np
import pytest

from prefillshare.errors import (
    TransferBroken,
    TransferClosed,
    TransferError,
    TransferIdentityError,
)
from prefillshare.transfer.base import Access, Batch, Grant, GrantEnd, Outcome, Transfer
from prefillshare.transfer.shm import ShmEngine, ShmLink
from tests.transfer.pairs import (
    ARENA,
    LONG,
    SECONDS,
    Ends,
    at_once,
    noise,
    nothing_left_behind,
    until,
)
from tests.transfer.tcp.far import Failed, Far

BOTH = pytest.mark.parametrize("access", ["read", "write"])
SIZE = 1 << 20
MIB = 1 << 20


@pytest.fixture
def here() -> Iterator[ShmEngine]:
    with nothing_left_behind():
        engine = ShmEngine(ARENA)
        yield engine
        engine.close()


@pytest.fixture
def far(here: ShmEngine) -> Iterator[Far]:
    with Far() as process:
        yield process


def share(far: Far, address: str = "", arena_bytes: int = 4 * SIZE) -> str:
    """Its engine."""
    address = address or f"shm://@test-{secrets.token_hex(8)}"
    found: str = far.ask("share", address=address, arena_bytes=arena_bytes)
    return found


def half(which: int) -> Batch:
    """The first or the second."""
    return np.array([[which * SIZE // 2, which * SIZE // 2, SIZE // 2]])


def lend(here: ShmEngine, access: Access) -> tuple[Grant, memoryview, Ends]:
    """Grant memory of this process."""
    memory, ends = ARENA.view[:SIZE], Ends()
    memory[:] = noise(SIZE).data if access == "read" else bytes(SIZE)
    whole = np.array([[0, SIZE]])
    grant = here.grant(here.register(memory), whole, access, ends)
    return grant, memory, ends


def begin(
    here: ShmEngine, link: ShmLink, grant: Grant, batch: Batch | None = None
) -> tuple[Transfer, bytearray]:
    """A transfer of all of a grant of the other process."""
    reads = grant.access == "read"
    memory = bytearray(noise(SIZE).tobytes()) if not reads else bytearray(SIZE)
    region = here.register(memoryview(memory))
    move = link.read if reads else link.write
    return move(grant, region, batch, timeout=LONG), memory


def start(here: ShmEngine, link: ShmLink, grant: Grant) -> tuple[Transfer, bytearray]:
    """Move the first half of a grant of the other process."""
    transfer, memory = begin(here, link, grant)
    transfer.add(half(0))
    until(lambda: transfer.progress[0] == SIZE // 2)
    return transfer, memory


def finish(transfer: Transfer, memory: bytearray) -> None:
    """Move the second half, and compare."""
    transfer.add(half(1))
    transfer.finish()
    transfer.wait(SECONDS)
    assert memory == noise(SIZE).tobytes()


def moves(here: ShmEngine, far: Far, address: str) -> None:
    """A new link to the other process carries both ways."""
    link = here.connect(address)
    accesses: list[Access] = ["read", "write"]
    for access in accesses:
        finish(*start(here, link, far.lend(access, SIZE)))
        assert far.ask("whole") and far.ask("ended") == ["done", SIZE]


@BOTH
@pytest.mark.parametrize("whole", [False, True], ids=["half moved", "all under way"])
def test_a_lender_that_is_killed_breaks_what_is_under_way(
    here: ShmEngine, far: Far, access: Access, whole: bool
) -> None:
    link = here.connect(address := share(far))
    grant = far.lend(access, SIZE)
    if whole:
        # What is written fills the socket, and what is read is not acknowledged.
        begun, _ = start(here, link, grant)
        far.signal(signal.SIGSTOP)
        begun.add(half(1))
        begun.finish()
        until(lambda: begun.progress[0] > SIZE // 2 or access == "write")
    else:
        begun, _ = start(here, link, grant)
    with at_once():
        far.kill()
        with pytest.raises(TransferBroken, match="the peer is gone"):
            begun.wait(LONG)
        with pytest.raises(TransferBroken, match="nothing answers"):
            begin(here, link, grant)
    with Far() as another:
        share(another, address)
        with pytest.raises(TransferIdentityError, match="ask for a new grant"):
            begin(here, link, grant)
        moves(here, another, address)


def test_a_mapping_of_a_lender_that_is_killed_is_wanted_back(
    here: ShmEngine, far: Far
) -> None:
    link = here.connect(share(far))
    with link.map(far.lend("read", SIZE)) as mapping:
        assert not mapping.wanted
        with at_once():
            far.kill()
            until(lambda: mapping.wanted)
        # The kernel keeps the memory for as long as somebody sees it.
        assert bytes(mapping.views[0]) == noise(SIZE).tobytes()


@BOTH
def test_a_mover_that_is_killed_leaves_the_grant_as_it_was(
    here: ShmEngine, far: Far, access: Access
) -> None:
    grant, memory, ends = lend(here, access)
    with Far() as another:
        for each in (far, another):
            share(each)
            each.ask("connect", address=here.address)
        far.ask("start", grant=grant.to_dict())
        with at_once():
            far.kill()
            until(lambda: not any(thread.is_alive() for thread in here._served))
        assert not ends.told
        another.ask("start", grant=grant.to_dict())
        assert another.ask("finish") == SIZE and another.ask("whole")
    assert ends.one() == GrantEnd(Outcome.DONE, b"", SIZE)
    assert memory == noise(SIZE).data


@pytest.mark.parametrize("spare", [0, 1, 2])
def test_a_lender_without_descriptors_keeps_its_peers(
    here: ShmEngine, far: Far, spare: int
) -> None:
    link = here.connect(address := share(far))
    under_way = start(here, link, far.lend("read", SIZE))
    held, grant = far.ask("vitals"), far.lend("read", SIZE)
    far.ask("use_up_files", spare=spare)
    # It has none for the connection, its waits, or what it lends.
    with pytest.raises(TransferError, match="no answer|is gone|nothing left to lend"):
        here.connect(address, timeout=0.5)
        begin(here, link, grant, half(0))[0].wait(SECONDS)
    finish(*under_way)
    far.ask("free_files")
    moves(here, far, address)
    until(lambda: far.ask("vitals")[1] <= held[1])


def test_a_lender_without_threads_keeps_its_peers(here: ShmEngine, far: Far) -> None:
    link = here.connect(address := share(far))
    under_way = [start(here, link, far.lend("read", SIZE))]
    # Less than the stack of a thread; those of threads that have ended are used again.
    far.ask("limit_memory", more=4 * MIB)
    with pytest.raises(TransferBroken, match="the peer is gone"):
        while len(under_way) < 9:
            under_way.append(start(here, link, Grant.from_dict(far.ask("again"))))
    far.ask("limit_memory", more=-1)
    for transfer, memory in under_way:
        finish(transfer, memory)
    moves(here, far, address)


def test_a_lender_without_memory_says_so(here: ShmEngine, far: Far) -> None:
    address = share(far, arena_bytes=8 * MIB)
    link = here.connect(address)
    # Their table is larger than what is left.
    grant = Grant.from_dict(far.ask("lend_pieces", count=SIZE))
    far.ask("limit_memory", more=4 * MIB)
    transfer, _ = begin(here, link, grant, half(0))
    with at_once(), pytest.raises(TransferBroken, match="nothing left to lend with"):
        transfer.wait(LONG)
    far.ask("limit_memory", more=-1)
    again, memory = begin(here, link, grant, np.array([[0, 0, SIZE]]))
    again.wait(SECONDS)
    assert memory == noise(2 * SIZE)[::2].tobytes()
    moves(here, far, address)


@pytest.mark.parametrize("spare", [0, 1, 2])
def test_a_mover_without_descriptors_is_told_so(
    here: ShmEngine, far: Far, spare: int
) -> None:
    grant, _, ends = lend(here, "read")
    share(far)
    far.ask("connect", address=here.address)
    before = far.ask("vitals")
    far.ask("use_up_files", spare=spare)
    with pytest.raises(Failed, match="Too many open files|no descriptor") as failed:
        far.ask("prepare", grant=grant.to_dict())
        far.ask("wait")
    assert failed.value.kind == "TransferBroken" and not ends.told
    far.ask("free_files")
    until(lambda: far.ask("vitals") == before)
    far.ask("start", grant=grant.to_dict())
    assert far.ask("finish") == SIZE and far.ask("whole")
    assert ends.one() == GrantEnd(Outcome.DONE, b"", SIZE)


def test_a_mover_without_threads_is_told_so(here: ShmEngine, far: Far) -> None:
    grant, _, ends = lend(here, "read")
    share(far)
    far.ask("connect", address=here.address)
    before = far.ask("vitals")
    far.ask("limit_memory", more=4 * MIB)
    with pytest.raises(Failed, match="no thread for a transfer") as failed:
        far.ask("prepare", grant=grant.to_dict())
    assert failed.value.kind == "TransferBroken" and not ends.told
    far.ask("limit_memory", more=-1)
    # Nothing of it is left, the connection included.
    assert far.ask("vitals") == before
    far.ask("start", grant=grant.to_dict())
    assert far.ask("finish") == SIZE and far.ask("whole")
    assert ends.one() == GrantEnd(Outcome.DONE, b"", SIZE)


def test_a_transfer_that_cannot_start_leaves_no_connection(here: ShmEngine) -> None:
    grant, _, ends = lend(here, "read")
    mover = ShmEngine()
    link = mover.connect(here.address)
    region = mover.register(memoryview(bytearray(SIZE)))
    mover.close()
    # The fixture sees to it that no descriptor is left.
    with pytest.raises(TransferClosed, match="make a new one"):
        link.read(grant, region, timeout=LONG)
    assert not ends.told
