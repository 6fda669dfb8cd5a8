"""Peers that are killed, fall silent, read nothing, or come back as another."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from prefillshare.errors import TransferBroken, TransferIdentityError
from prefillshare.transfer.base import Access, Batch, Grant, GrantEnd, Outcome, Transfer
from prefillshare.transfer.secure.contexts import SecuritySettings
from prefillshare.transfer.tcp.engine import TcpEngine
from prefillshare.transfer.tcp.link import TcpLink
from prefillshare.transfer.tcp.settings import TcpSettings
from tests.transfer.networked import security
from tests.transfer.pairs import (
    LONG,
    Ends,
    at_once,
    noise,
    nothing_left_behind,
    until,
)
from tests.transfer.tcp.far import Failed, Far
from tests.transfer.tcp.rig import SETTINGS

BOTH = pytest.mark.parametrize("access", ["read", "write"])
SIZE, FEW = 1 << 20, 1000
# Only the end of a connection can tell in time, not its silence.
PATIENT = SETTINGS.model_copy(update={"dead_seconds": 600.0})
# The first slice leaves at once, and the last long after the end of a test.
SLOW = PATIENT.model_copy(update={"rate_gbps": 1e-4})
# Its silence is noticed well before the end of a test.
IMPATIENT = SETTINGS.model_copy(update={"dead_seconds": 1.0})


@dataclass
class Peers:
    """An engine here, and certificates for one in another process."""

    keys: list[SecuritySettings | None]
    settings: TcpSettings
    stack: ExitStack

    def __post_init__(self) -> None:
        self.here = TcpEngine(settings=self.settings, security=self.keys[0])
        self.stack.callback(self.here.close)

    def far(self) -> Far:
        """Another process."""
        return self.stack.enter_context(Far())

    def open(self, far: Far, listen: str = "tcp://127.0.0.1:0") -> str:
        """Its engine."""
        return far.open(self.settings, self.keys[1], listen)

    def lend(self, access: Access) -> tuple[Grant, bytearray, Ends]:
        """Grant memory of this process."""
        data = noise(SIZE).tobytes() if access == "read" else bytes(SIZE)
        memory, ends = bytearray(data), Ends()
        region = self.here.register(memoryview(memory))
        whole = np.array([[0, SIZE]])
        return self.here.grant(region, whole, access, ends), memory, ends

    def start(self, link: TcpLink, grant: Grant) -> tuple[Transfer, bytearray]:
        """Move the first half of a grant of the other process."""
        transfer, memory = self.begin(link, grant)
        transfer.add(half(0))
        until(lambda: transfer.progress[0] == SIZE // 2)
        return transfer, memory

    def begin(
        self, link: TcpLink, grant: Grant, batch: Batch | None = None
    ) -> tuple[Transfer, bytearray]:
        """A transfer of a grant of the other process."""
        reads = grant.access == "read"
        memory = bytearray(SIZE) if reads else bytearray(noise(SIZE).tobytes())
        region = self.here.register(memoryview(memory))
        begin = link.read if reads else link.write
        return begin(grant, region, batch, timeout=LONG), memory

    def move(self, link: TcpLink, far: Far, access: Access) -> None:
        """Move all of a new grant of the other process."""
        grant = far.lend(access, SIZE)
        transfer, memory = self.start(link, grant)
        transfer.add(half(1))
        transfer.finish()
        transfer.wait(LONG)
        assert memory == noise(SIZE).tobytes() and far.ask("whole")
        assert far.ask("ended") == ["done", SIZE]


@pytest.fixture(params=["plain", "sealed"])
def keys(
    request: pytest.FixtureRequest, tmp_path: Path
) -> list[SecuritySettings | None]:
    sealed = request.param == "sealed"
    return [security(tmp_path, n, f"site-{n}") if sealed else None for n in "ab"]


@pytest.fixture
def patient(keys: list[SecuritySettings | None]) -> Iterator[Peers]:
    with nothing_left_behind(), ExitStack() as stack:
        yield Peers(keys, PATIENT, stack)


@pytest.fixture
def slow(keys: list[SecuritySettings | None]) -> Iterator[Peers]:
    with nothing_left_behind(), ExitStack() as stack:
        yield Peers(keys, SLOW, stack)


@pytest.fixture
def impatient(keys: list[SecuritySettings | None]) -> Iterator[Peers]:
    with nothing_left_behind(), ExitStack() as stack:
        yield Peers(keys, IMPATIENT, stack)


def half(which: int) -> Batch:
    """The first or the second."""
    return np.array([[which * SIZE // 2, which * SIZE // 2, SIZE // 2]])


def batch(size: int) -> Batch:
    """All of it, or the first bytes."""
    return np.array([[0, 0, size]])


@BOTH
def test_a_lender_that_is_killed_breaks_what_is_under_way(
    patient: Peers, access: Access
) -> None:
    far = patient.far()
    link = patient.here.connect(address := patient.open(far))
    transfer, _ = patient.start(link, grant := far.lend(access, SIZE))
    with at_once():
        far.kill()
        with pytest.raises(TransferBroken, match="the peer is gone"):
            transfer.wait(LONG)
        with pytest.raises(TransferBroken, match="refused"):
            patient.start(link, grant)
    another = patient.far()
    assert patient.open(another, address) == address
    patient.move(link, another, access)


@BOTH
def test_a_lender_that_is_killed_breaks_a_batch_of_which_all_is_under_way(
    slow: Peers, access: Access
) -> None:
    far = slow.far()
    link = slow.here.connect(address := slow.open(far))
    transfer, _ = slow.begin(link, far.lend(access, SIZE), batch(SIZE))
    until(lambda: transfer.progress[0] > 0)
    with at_once():
        far.kill()
        with pytest.raises(TransferBroken, match="the peer is gone"):
            transfer.wait(LONG)
    moved, added = transfer.progress
    assert 0 < moved < added == SIZE
    another = slow.far()
    slow.open(another, address)
    small = another.lend(access, FEW)
    slow.begin(link, small, batch(FEW))[0].wait(LONG)
    assert another.ask("ended") == ["done", FEW]


def test_a_lender_that_was_started_again_is_another(patient: Peers) -> None:
    far = patient.far()
    link = patient.here.connect(address := patient.open(far))
    grant = far.lend("read", SIZE)
    far.kill()
    another = patient.far()
    patient.open(another, address)
    region = patient.here.register(memoryview(bytearray(SIZE)))
    with (
        at_once(),
        pytest.raises(TransferIdentityError, match=f"grant is of {grant.engine}"),
    ):
        link.read(grant, region, timeout=LONG)
    patient.move(link, another, "read")


@BOTH
def test_a_mover_that_is_killed_leaves_the_grant_as_it_was(
    patient: Peers, access: Access
) -> None:
    far, another = patient.far(), patient.far()
    grant, memory, ends = patient.lend(access)
    for each in (far, another):
        patient.open(each)
        each.ask("connect", address=patient.here.address)
    far.ask("start", grant=grant.to_dict())
    with at_once():
        far.kill()
        until(lambda: len(patient.here._listener._sessions) == 1)
    assert not ends.told
    another.ask("start", grant=grant.to_dict())
    assert another.ask("finish") == SIZE
    assert ends.one() == GrantEnd(Outcome.DONE, b"", SIZE)
    assert memory == noise(SIZE).tobytes() and another.ask("whole")


@BOTH
def test_a_mover_that_is_killed_with_a_whole_batch_under_way_leaves_the_grant(
    slow: Peers, access: Access
) -> None:
    far = slow.far()
    grant, _, ends = slow.lend(access)
    slow.open(far)
    far.ask("connect", address=slow.here.address)
    far.ask("prepare", grant=grant.to_dict())
    far.tell("finish")
    (session,) = slow.here._listener._sessions.values()
    until(lambda: bool((end := session.board.find(1)) and end.moved))
    with at_once():
        far.kill()
        until(lambda: not slow.here._listener._sessions)
    assert not ends.told
    mover = TcpEngine(settings=PATIENT, security=slow.keys[1])
    slow.stack.callback(mover.close)
    link = mover.connect(slow.here.address)
    region = mover.register(memoryview(bytearray(FEW)))
    begin = link.read if access == "read" else link.write
    begin(grant, region, batch(FEW), timeout=LONG).wait()
    assert ends.one() == GrantEnd(Outcome.DONE, b"", FEW)


@BOTH
def test_a_lender_that_is_silent_is_given_up(impatient: Peers, access: Access) -> None:
    far = impatient.far()
    link = impatient.here.connect(impatient.open(far))
    transfer, _ = impatient.start(link, far.lend(access, SIZE))
    far.signal(signal.SIGSTOP)
    # After its `dead_seconds`, that is, not with the transfer's time.
    with at_once(), pytest.raises(TransferBroken, match="silent for"):
        transfer.wait(LONG)
    far.signal(signal.SIGCONT)
    impatient.move(link, far, access)


@BOTH
def test_a_mover_that_is_silent_is_given_up(impatient: Peers, access: Access) -> None:
    far = impatient.far()
    grant, memory, ends = impatient.lend(access)
    impatient.open(far)
    far.ask("connect", address=impatient.here.address)
    far.ask("start", grant=grant.to_dict())
    far.signal(signal.SIGSTOP)
    with at_once():
        until(lambda: not impatient.here._listener._sessions)
    assert not ends.told
    far.signal(signal.SIGCONT)
    with pytest.raises(Failed) as failed:
        far.ask("wait")
    assert failed.value.kind == "TransferBroken"
    far.ask("start", grant=grant.to_dict())
    assert far.ask("finish") == SIZE
    assert ends.one().outcome is Outcome.DONE
    assert memory == noise(SIZE).tobytes() and far.ask("whole")
