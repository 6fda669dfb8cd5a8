"""What becomes of slices that were changed, repeated or taken away on their way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from prefillshare.errors import TransferBroken, TransferIntegrityError
from prefillshare.transfer.base import Access
from prefillshare.transfer.tcp.frames import MAX_SLICE_BYTES
from prefillshare.transfer.tcp.slices import HEAD_BYTES, TAG_BYTES, SliceHead
from tests.transfer.pairs import SECONDS
from tests.transfer.tcp.middleman import Once, Unit, flipped
from tests.transfer.tcp.rig import SETTINGS, SIZE, Move, Rig, batch, rig

BOTH = pytest.mark.parametrize("access", ["read", "write"])
How = Callable[[Unit], Sequence[bytes | None]]
FIXED = HEAD_BYTES - TAG_BYTES


@pytest.fixture(params=["plain", "sealed"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    """One stream, so that it is known which slice comes next."""
    one = SETTINGS.model_copy(update={"streams": 1})
    with rig(tmp_path, sealed=request.param == "sealed", settings=one) as made:
        yield made
        made.man.tamper = lambda unit: [unit.data]
        made.works()


def once(access: Access, how: How) -> Once:
    """Tamper with the first slice that goes where a transfer's bytes go."""
    way = "to mover" if access == "read" else "to lender"
    return Once(lambda u: u.kind == "data" and u.way == way and u.index > 0, how)


def keep(seen: list[bytes], *, instead: bool = False) -> How:
    """Keep a slice, and pass it on unless something comes `instead`."""

    def how(unit: Unit) -> Sequence[bytes | None]:
        seen.append(unit.data)
        return [] if instead else [unit.data]

    return how


def broken(pair: Rig, move: Move) -> str:
    """What the mover is told: by its own eyes if it receives, else by the peer."""
    kind = TransferIntegrityError if move.grant.access == "read" else TransferBroken
    with pytest.raises(kind) as found:
        move.transfer.wait(SECONDS)
    assert not move.ends.told
    # The grant is as it was.
    pair.start(move).check()
    return str(found.value)


@BOTH
def test_a_flipped_payload_fails_its_transfer_alone(pair: Rig, access: Access) -> None:
    other = pair.start(pair.prepare(access), fed=True)
    pair.man.tamper = once(access, lambda u: [flipped(u.data, HEAD_BYTES + 5)])
    move = pair.move(access)
    with pytest.raises(TransferIntegrityError):
        move.transfer.wait(SECONDS)
    assert not move.ends.told
    other.transfer.add(batch(SIZE))
    other.transfer.finish()
    other.check()
    pair.start(move).check()
    assert len(pair.man.connections) == 2


# In the magic, the number of the transfer, and the length.
@pytest.mark.parametrize("byte", [0, 7, 15])
@BOTH
def test_a_flipped_head_ends_the_session(pair: Rig, access: Access, byte: int) -> None:
    pair.man.tamper = once(access, lambda u: [flipped(u.data, byte)])
    assert "slice" in broken(pair, pair.move(access))


@BOTH
def test_a_truncated_slice_goes_out_again(pair: Rig, access: Access) -> None:
    pair.man.tamper = once(access, lambda u: [u.data[: HEAD_BYTES + 100], None])
    pair.move(access).check()
    assert len(pair.man.data()) == 2


@BOTH
def test_a_slice_that_comes_twice_ends_the_session(pair: Rig, access: Access) -> None:
    pair.man.tamper = once(access, lambda u: [u.data, u.data])
    # It is still under way then, since it is not finished.
    move = pair.start(pair.prepare(access), fed=True)
    move.transfer.add(batch(SIZE))
    assert "twice" in broken(pair, move)


@BOTH
def test_slices_in_another_order_are_no_fault(pair: Rig, access: Access) -> None:
    held: list[bytes] = []
    first = once(access, keep(held, instead=True))
    second = once(access, lambda u: [u.data, *held])

    def swap(unit: Unit) -> Sequence[bytes | None]:
        return list(second(unit) if first.done.is_set() else first(unit))

    pair.man.tamper = swap
    pair.move(access).check()
    assert second.done.is_set()


@BOTH
def test_an_oversize_slice_ends_the_session(pair: Rig, access: Access) -> None:
    def grown(unit: Unit) -> list[bytes]:
        head = SliceHead.unpack(unit.data[:HEAD_BYTES])
        larger = replace(head, length=MAX_SLICE_BYTES + 1).pack()
        return [larger + unit.data[FIXED:]]

    pair.man.tamper = once(access, grown)
    assert str(MAX_SLICE_BYTES + 1) in broken(pair, pair.move(access))


@BOTH
def test_a_slice_of_an_earlier_transfer_is_nobodys(pair: Rig, access: Access) -> None:
    seen: list[bytes] = []
    pair.man.tamper = once(access, keep(seen))
    pair.move(access).check()
    again = once(access, lambda u: [u.data, *seen])
    pair.man.tamper = again
    pair.move(access).check()
    assert again.done.is_set()


@BOTH
def test_a_slice_in_anothers_place_fails_its_transfer(
    pair: Rig, access: Access
) -> None:
    seen: list[bytes] = []
    pair.man.tamper = once(access, keep(seen))
    pair.move(access).check()
    # All that is said of it is what the receiver waits for; the bytes are others.
    pair.man.tamper = once(access, lambda u: [u.data[:FIXED] + seen[0][FIXED:]])
    move = pair.move(access)
    with pytest.raises(TransferIntegrityError):
        move.transfer.wait(SECONDS)
    pair.start(move).check()


@BOTH
def test_bytes_that_were_verified_do_not_change(pair: Rig, access: Access) -> None:
    seen: list[bytes] = []
    pair.man.tamper = once(access, keep(seen))
    move = pair.move(access)
    move.check()
    inside = move.near if access == "read" else move.far
    inside[:] = bytes(SIZE)
    again = once(access, lambda u: [*seen, u.data])
    pair.man.tamper = again
    pair.move(access).check()
    # What came after it on the same stream is in place, so it has been dealt with.
    assert again.done.is_set() and not any(inside)
