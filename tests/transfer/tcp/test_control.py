"""What becomes of control frames that were changed, repeated or lost on their way."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from prefillshare.errors import (
    TransferBroken,
    TransferError,
    TransferIntegrityError,
)
from prefillshare.transfer.base import GrantEnd, Outcome
from prefillshare.transfer.tcp import frames
from prefillshare.transfer.tcp.sockets import parse_address
from tests.transfer.pairs import SECONDS
from tests.transfer.tcp.middleman import Once, Unit, Way, flipped
from tests.transfer.tcp.rig import SETTINGS, SIZE, Move, Rig, rig

How = Callable[[Unit], Sequence[bytes | None]]
SMALL = 1000
# Pings and pongs come when they will: a frame's head alone, in a TLS record or not.
_BARE = len(frames.Ping().encode(0))
_PULSE = (_BARE, _BARE + 22)


@pytest.fixture(params=["plain", "sealed"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    sealed = request.param == "sealed"
    # Pings within the test's time, so that a frame that is lost is missed soon.
    often = SETTINGS.model_copy(update={"dead_seconds": 3.0})
    with rig(tmp_path, sealed=sealed, settings=often) as made:
        yield made
        made.man.tamper = lambda unit: [unit.data]
        made.works()


def once(way: Way, how: How) -> Once:
    """Tamper with the next frame, or TLS record, about a transfer."""
    return Once(lambda u: of_control(u, way) and len(u.data) not in _PULSE, how)


def of_control(unit: Unit, way: Way) -> bool:
    """Whether it goes that way on the control connection."""
    return unit.kind == "control" and unit.way == way


def broken(pair: Rig, how: How) -> str:
    """What a mover is told whose frames do not reach the lender as they were."""
    move = pair.prepare("read")
    pair.man.tamper = once("to lender", how)
    with pytest.raises(TransferBroken) as found:
        pair.start(move).transfer.wait(SECONDS)
    pair.man.tamper = lambda unit: [unit.data]
    again(pair, move)
    return str(found.value)


def again(pair: Rig, move: Move) -> None:
    """The grant is as it was, and can be used."""
    assert not move.ends.told
    pair.start(move).check()


def test_a_truncated_frame_breaks_the_link(pair: Rig) -> None:
    assert "peer is gone" in broken(pair, lambda u: [u.data[:-5], None])


@pytest.mark.parametrize("byte", [3, 4, 10, -1])
def test_a_flipped_frame_breaks_the_link(pair: Rig, byte: int) -> None:
    broken(pair, lambda u: [flipped(u.data, byte)])


def test_a_flipped_answer_is_an_integrity_error(pair: Rig) -> None:
    move = pair.prepare("write", SMALL)
    pair.man.tamper = once("to mover", lambda u: [flipped(u.data, -1)])
    with pytest.raises(TransferIntegrityError):
        pair.start(move).transfer.wait(SECONDS)
    # The bytes had arrived: the lender may know of a success that the mover does not.
    assert move.ends.one() == GrantEnd(Outcome.DONE, b"note", SMALL)
    assert move.far == move.near


def test_a_frame_that_comes_twice_breaks_the_link(pair: Rig) -> None:
    broken(pair, lambda u: [u.data, u.data])


def test_frames_in_another_order_break_the_link(pair: Rig) -> None:
    held: list[bytes] = []

    def swap(unit: Unit) -> Sequence[bytes | None]:
        if not of_control(unit, "to lender") or len(held) > 1:
            return [unit.data]
        held.append(unit.data)
        return [] if len(held) == 1 else [unit.data, held[0]]

    move = pair.prepare("read")
    pair.man.tamper = swap
    with pytest.raises(TransferBroken):
        pair.start(move).transfer.wait(SECONDS)
    again(pair, move)


def test_a_frame_that_is_lost_breaks_the_link(pair: Rig) -> None:
    broken(pair, lambda u: [])


def test_the_last_frame_that_is_lost_breaks_the_link_with_the_next_ping(
    pair: Rig,
) -> None:
    move = pair.start(pair.prepare("write", SMALL), fed=True)
    pair.man.tamper = once("to lender", lambda u: [])
    move.transfer.cancel()
    with pytest.raises(TransferError):
        move.transfer.wait(SECONDS)
    session = pair.link._session
    assert session is not None
    session.join()
    pair.man.tamper = lambda unit: [unit.data]
    again(pair, move)


def test_an_oversize_frame_breaks_the_link(pair: Rig) -> None:
    def grown(unit: Unit) -> list[bytes]:
        if unit.data[0] in (0x16, 0x17):
            return [unit.data[:3] + b"\xff\xff" + unit.data[5:]]
        return [struct.pack("!I", 2**31) + unit.data[4:]]

    text = broken(pair, grown)
    assert "2147483648" in text or "peer is gone" in text


def test_a_replayed_conversation_changes_nothing(pair: Rig) -> None:
    said, number = bytearray(), len(pair.man.connections)

    def keep(unit: Unit) -> Sequence[bytes | None]:
        if of_control(unit, "to lender") and unit.connection == number:
            said.extend(unit.data)
        return [unit.data]

    pair.man.tamper = keep
    pair.link = pair.mover.connect(pair.man.address)
    # It goes whole, in one frame.
    move = pair.move("write", SMALL)
    move.check()
    move.far[:] = bytes(SMALL)
    refused, answered = b"grant unknown, used or over", b""
    with socket.create_connection(parse_address(pair.lender.address), SECONDS) as sock:
        sock.sendall(said)
        # Until it has answered, or hung up.
        while refused not in answered and (more := sock.recv(1 << 16)):
            answered += more
    assert not any(move.far)
    # A plain one is spoken with, as any peer is; its capability has been used.
    if said[0] == 0:
        assert refused in answered


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ([[0, 9], [8, 5]], "overlap at byte 8"),
        ([[SIZE - 5, 6]], f"ends at byte {SIZE + 1}, the grant has {SIZE}"),
        ([[-1, 6]], "negative"),
    ],
)
def test_ranges_that_were_not_granted_fail_the_transfer(
    tmp_path: Path, table: list[list[int]], said: str
) -> None:
    with rig(tmp_path) as pair:

        def forged(unit: Unit) -> list[bytes]:
            number = frames.Add.decode(unit.data[16:]).transfer
            ranges = frames.packed(np.array(table))
            return [frames.Add(number, ranges).encode(unit.index)]

        pair.man.tamper = Once(
            lambda u: u.kind == "control" and u.data[4] == frames.Add.kind, forged
        )
        not_granted(pair, said)
        pair.works()


def not_granted(pair: Rig, said: str) -> None:
    """The transfer fails by itself, and writes nothing."""
    move = pair.move("write")
    with pytest.raises(TransferIntegrityError, match=said):
        move.transfer.wait(SECONDS)
    assert not any(move.far)
    again(pair, move)
    assert len(pair.man.connections) == 1 + SETTINGS.streams


def test_a_lender_that_claims_an_end_too_early_is_not_believed(tmp_path: Path) -> None:
    often = SETTINGS.model_copy(update={"dead_seconds": 3.0})
    with rig(tmp_path, settings=often) as pair:
        move = pair.start(pair.prepare("read"), fed=True)
        number = pair.link._number

        def claimed(unit: Unit) -> list[bytes]:
            return [frames.Done(number).encode(unit.index)]

        # In place of the answer to a ping.
        pair.man.tamper = Once(lambda u: of_control(u, "to mover"), claimed)
        with pytest.raises(TransferIntegrityError, match="cannot know"):
            move.transfer.wait(SECONDS)
        again(pair, move)
        del move
