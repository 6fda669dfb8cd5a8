"""How much of a side's memory its peer can make it set aside."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefillshare.errors import TransferRefused
from prefillshare.transfer.tcp import frames
from prefillshare.transfer.tcp.engine import TcpEngine
from prefillshare.transfer.tcp.settings import ACCEPTED_SLICE_BYTES
from tests.transfer.pairs import SECONDS, noise, nothing_left_behind
from tests.transfer.tcp.forger import LONG, SIZE, Forger, Lent, slice_of
from tests.transfer.tcp.rig import SETTINGS, Rig, rig


@pytest.fixture
def lender() -> Iterator[TcpEngine]:
    with nothing_left_behind():
        made = TcpEngine(settings=LONG)
        yield made
        made.close()


@pytest.fixture
def forger(lender: TcpEngine) -> Iterator[Forger]:
    made = Forger(lender)
    yield made
    made.close()


def test_slices_that_nobody_wants_are_thrown_away_in_small_pieces(
    lender: TcpEngine, forger: Forger
) -> None:
    lent, data = Lent(lender, "write"), noise(SIZE).tobytes()
    forger.small(1, lent.grant, b"over")
    assert forger.hear() == frames.Done(1)
    lent, unwanted = Lent(lender, "write"), slice_of(1, bytes(frames.MAX_SLICE_BYTES))
    tracemalloc.start()
    try:
        forger.stream.sendall(unwanted)
        forger.write(2, lent.grant)
        forger.stream.sendall(slice_of(2, data))
        assert forger.hear() == frames.Done(2)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert lent.memory == data


def test_larger_slices_than_a_side_takes_are_refused(
    lender: TcpEngine, forger: Forger
) -> None:
    lent = Lent(lender, "write")
    forger.open(1, lent.grant, ACCEPTED_SLICE_BYTES + 1)
    said = forger.hear()
    assert isinstance(said, frames.Fail) and said.code == frames.Code.REFUSED
    assert b"at most 4194304; set `slice_bytes` alike on both sides" in said.text
    forger.open(2, lent.grant, ACCEPTED_SLICE_BYTES)
    forger.small(3, lent.grant, b"in its place")
    assert {type(forger.hear()) for _ in range(2)} == {frames.Fail, frames.Done}


def refused(pair: Rig) -> None:
    move = pair.move("read")
    with pytest.raises(TransferRefused, match="slices of 8388608 bytes"):
        move.transfer.wait(SECONDS)
    assert not move.ends.told


@pytest.mark.parametrize("sealed", [False, True])
def test_a_side_takes_as_large_slices_as_its_own(tmp_path: Path, sealed: bool) -> None:
    large = SETTINGS.model_copy(update={"slice_bytes": 2 * ACCEPTED_SLICE_BYTES})
    with rig(tmp_path / "both", settings=large, sealed=sealed) as pair:
        pair.works()
    with rig(tmp_path / "one", settings=large, sealed=sealed, lends=SETTINGS) as pair:
        refused(pair)
