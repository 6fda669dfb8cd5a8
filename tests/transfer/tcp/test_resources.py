"""Descriptors, memory and threads that are used up for a while: an error by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from prefillshare.errors import TransferBroken
from prefillshare.transfer.base import Grant
from prefillshare.transfer.secure.contexts import SecuritySettings
from prefillshare.transfer.tcp.engine import TcpEngine
from prefillshare.transfer.tcp.frames import MAX_SLICE_BYTES
from prefillshare.transfer.tcp.link import TcpLink
from tests.transfer.networked import security
from tests.transfer.pairs import (
    SECONDS,
    Ends,
    no_thread,
    noise,
    nothing_left_behind,
    until,
)
from tests.transfer.tcp.far import Failed, Far
from tests.transfer.tcp.rig import SETTINGS

QUICK = SETTINGS.model_copy(update={"handshake_seconds": 0.5})
# A slice takes a buffer of its size on both sides, if it is sealed.
LARGE = QUICK.model_copy(update={"slice_bytes": MAX_SLICE_BYTES, "streams": 1})
SIZE = 2 * MAX_SLICE_BYTES
MIB = 1 << 20


@pytest.fixture
def far() -> Iterator[Far]:
    with nothing_left_behind(), Far() as process:
        yield process


def pulled(engine: TcpEngine, link: TcpLink, grant: Grant) -> None:
    """Read all of a grant of the other process."""
    memory = bytearray(grant.size)
    region = engine.register(memoryview(memory))
    whole = np.array([[0, 0, grant.size]])
    link.read(grant, region, whole, timeout=SECONDS).wait()
    assert memory == noise(grant.size).tobytes()


def test_a_lender_without_descriptors_keeps_its_peers(far: Far) -> None:
    mover = TcpEngine(settings=QUICK)
    link = mover.connect(address := far.open(QUICK))
    first, second = far.lend("read", MIB), far.lend("read", MIB)
    far.ask("use_up_files", spare=0)
    with pytest.raises(TransferBroken, match="no answer"):
        mover.connect(address)
    pulled(mover, link, first)
    far.ask("free_files")
    pulled(mover, mover.connect(address), second)
    mover.close()


@pytest.mark.parametrize("spare", [0, 3])
def test_a_mover_without_descriptors_is_told_so(far: Far, spare: int) -> None:
    lender, ends, memory = TcpEngine(), Ends(), bytearray(noise(MIB).tobytes())
    far.open(QUICK)
    before = far.ask("vitals")
    far.ask("use_up_files", spare=spare)
    with pytest.raises(Failed, match="Too many open files") as failed:
        far.ask("connect", address=lender.address)
    assert failed.value.kind == "TransferBroken"
    until(lambda: not lender._listener._sessions)
    far.ask("free_files")
    # The timer's thread began with the first attempt.
    threads, files = far.ask("vitals")
    assert threads <= before[0] + 1 and files == before[1]
    far.ask("connect", address=lender.address)
    region, whole = lender.register(memoryview(memory)), np.array([[0, MIB]])
    grant = lender.grant(region, whole, "read", ends)
    far.ask("start", grant=grant.to_dict())
    assert far.ask("finish") == MIB and far.ask("whole")
    lender.close()


@pytest.fixture
def keys(tmp_path: Path) -> list[SecuritySettings]:
    return [security(tmp_path, n, f"site-{n}") for n in "ab"]


def test_a_lender_without_memory_fails_the_transfer(
    far: Far, keys: list[SecuritySettings]
) -> None:
    mover = TcpEngine(settings=LARGE, security=keys[0])
    link = mover.connect(far.open(LARGE, keys[1]))
    reading, writing = far.lend("read", SIZE), far.lend("write", SIZE)
    region = mover.register(memoryview(bytearray(noise(SIZE).tobytes())))
    whole = np.array([[0, 0, SIZE]])
    for grant, begin in ((reading, link.read), (writing, link.write)):
        far.ask("limit_memory", more=9 * MIB)
        with pytest.raises(TransferBroken, match="no memory for a slice of 16777216"):
            begin(grant, region, whole, timeout=SECONDS).wait()
        far.ask("limit_memory", more=-1)
        begin(grant, region, whole, timeout=SECONDS).wait()
    assert far.ask("ended") == ["done", SIZE]
    mover.close()


def test_a_mover_without_memory_is_told_so(
    far: Far, keys: list[SecuritySettings]
) -> None:
    lender, ends = TcpEngine(settings=LARGE, security=keys[0]), Ends()
    region = lender.register(memoryview(bytearray(noise(SIZE).tobytes())))
    grant = lender.grant(region, np.array([[0, SIZE]]), "read", ends)
    far.open(LARGE, keys[1])
    far.ask("connect", address=lender.address)
    far.ask("prepare", grant=grant.to_dict())
    far.ask("limit_memory", more=9 * MIB)
    with pytest.raises(Failed, match="no memory for a slice of 16777216") as failed:
        far.ask("finish")
    assert failed.value.kind == "TransferBroken" and not ends.told
    far.ask("limit_memory", more=-1)
    far.ask("start", grant=grant.to_dict())
    assert far.ask("finish") == SIZE and far.ask("whole")
    assert ends.one().bytes == SIZE
    lender.close()


@pytest.mark.parametrize("name", ["grants", "kv-timer", "kv-accept"])
def test_an_engine_without_threads_is_none(name: str) -> None:
    with nothing_left_behind():
        with no_thread(name), pytest.raises(TransferBroken, match="for an engine"):
            TcpEngine()


def test_a_lender_without_threads_keeps_its_peers(far: Far) -> None:
    mover = TcpEngine(settings=QUICK)
    link = mover.connect(address := far.open(QUICK))
    first, second = far.lend("read", MIB), far.lend("read", MIB)
    # Less than the stack of a thread.
    far.ask("limit_memory", more=4 * MIB)
    with pytest.raises(TransferBroken):
        mover.connect(address)
    pulled(mover, link, first)
    far.ask("limit_memory", more=-1)
    pulled(mover, mover.connect(address), second)
    mover.close()
