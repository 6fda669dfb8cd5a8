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
from tests.transfer.pairs import SECONDS, Ends, noise, nothing_left_behind, until
from tests.transfer.tcp.far import Failed, Far
from tests.transfer.tcp.rig import SETTINGS

BOTH = pytest.mark.parametrize("access", ["read", "write"])
SIZE = 1 << 20
# Only the end of a connection can tell in time, not its silence.
PATIENT = SETTINGS.model_copy(update={"dead_seconds": 600.0})
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
        reads = grant.access == "read"
        memory = bytearray(SIZE) if reads else bytearray(noise(SIZE).tobytes())
        region = self.here.register(memoryview(memory))
        begin = link.read if reads else link.write
        transfer = begin(grant, region, timeout=SECONDS)
        transfer.add(half(0))
        until(lambda: transfer.progress[0] == SIZE // 2)
        return transfer, memory

    def move(self, link: TcpLink, far: Far, access: Access) -> None:
        """Move all of a new grant of the other process."""
        grant = far.lend(access, SIZE)
        transfer, memory = self.start(link, grant)
        transfer.add(half(1))
        transfer.finish()
        transfer.wait(SECONDS)
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
def impatient(keys: list[SecuritySettings | None]) -> Iterator[Peers]:
    with nothing_left_behind(), ExitStack() as stack:
        yield Peers(keys, IMPATIENT, stack)


def half(which: int) -> Batch:
    """The first or the second."""
    return np.array([[which * SIZE // 2, which * SIZE // 2, SIZE // 2]])


@BOTH
def test_a_lender_that_is_killed_breaks_what_is_under_way(
    patient: Peers, access: Access
) -> None:
    far = patient.far()
    link = patient.here.connect(address := patient.open(far))
    transfer, _ = patient.start(link, grant := far.lend(access, SIZE))
    far.kill()
    with pytest.raises(TransferBroken, match="the peer is gone"):
        transfer.wait(SECONDS)
    with pytest.raises(TransferBroken, match="refused"):
        patient.start(link, grant)
    another = patient.far()
    assert patient.open(another, address) == address
    patient.move(link, another, access)


def test_a_lender_that_was_started_again_is_another(patient: Peers) -> None:
    far = patient.far()
    link = patient.here.connect(address := patient.open(far))
    grant = far.lend("read", SIZE)
    far.kill()
    another = patient.far()
    patient.open(another, address)
    region = patient.here.register(memoryview(bytearray(SIZE)))
    with pytest.raises(TransferIdentityError, match=f"grant is of {grant.engine}"):
        link.read(grant, region, timeout=SECONDS)
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
    far.kill()
    until(lambda: len(patient.here._listener._sessions) == 1)
    assert not ends.told
    another.ask("start", grant=grant.to_dict())
    assert another.ask("finish") == SIZE
    assert ends.one() == GrantEnd(Outcome.DONE, b"", SIZE)
    assert memory == noise(SIZE).tobytes() and another.ask("whole")


@BOTH
def test_a_lender_that_is_silent_is_given_up(impatient: Peers, access: Access) -> None:
    far = impatient.far()
    link = impatient.here.connect(impatient.open(far))
    transfer, _ = impatient.start(link, far.lend(access, SIZE))
    far.signal(signal.SIGSTOP)
    with pytest.raises(TransferBroken, match="silent for"):
        transfer.wait(SECONDS)
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
