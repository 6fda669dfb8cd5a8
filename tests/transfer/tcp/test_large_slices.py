"""Slices of which a receiver is not told packet by packet, cut off or held back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefillshare.errors import TransferTimeout
from prefillshare.transfer.base import Access
from prefillshare.transfer.tcp.settings import TcpSettings
from tests.transfer.pairs import SECONDS, until
from tests.transfer.tcp.middleman import Once, Unit
from tests.transfer.tcp.rig import Rig, rig

BOTH = pytest.mark.parametrize("access", ["read", "write"])
STEP = 1 << 20
SIZE = 4 * STEP
# Before the first wake, between two, and where every packet wakes again.
PLACES = pytest.mark.parametrize("at", [100_000, 500_000, STEP - 1000])


@pytest.fixture(params=["plain", "sealed"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    settings = TcpSettings(streams=2, slice_bytes=STEP, retry_seconds=0.01)
    sealed = request.param == "sealed"
    with rig(tmp_path, sealed=sealed, settings=settings) as made:
        yield made
        made.works()
        until(lambda: len(made.link.streams()) == settings.streams)


def second(unit: Unit) -> bool:
    """Whether it is the second slice of a stream."""
    return unit.kind == "data" and unit.index == 2


@BOTH
@PLACES
def test_a_slice_that_is_cut_off_goes_out_again(
    pair: Rig, access: Access, at: int
) -> None:
    cut = Once(second, lambda unit: [unit.data[:at], None])
    pair.man.tamper = cut
    pair.move(access, SIZE).check()
    assert cut.done.is_set()


@BOTH
@PLACES
def test_a_slice_that_is_held_back_is_let_go_with_its_transfer(
    pair: Rig, access: Access, at: int
) -> None:
    over = threading.Event()

    def hold(unit: Unit) -> Iterator[bytes]:
        yield unit.data[:at]
        assert over.wait(SECONDS)
        yield unit.data[at:]

    pair.man.tamper = Once(second, hold)
    move = pair.start(pair.prepare(access, SIZE), timeout=0.3)
    with pytest.raises(TransferTimeout, match=r"bytes moved within 0\.3 s"):
        move.transfer.wait(SECONDS)
    over.set()
    pair.start(move).check()
