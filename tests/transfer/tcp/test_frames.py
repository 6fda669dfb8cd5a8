"""Frames and heads of slices: what is encoded is read back, and nothing else is."""

from __future__ import annotations

import io
import itertools
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefillshare.errors import TransferBroken, TransferError, TransferIntegrityError
from prefillshare.transfer.base import MAX_NOTE_BYTES
from prefillshare.transfer.tcp import frames
from prefillshare.transfer.tcp.slices import HEAD_BYTES, Ledger, SliceHead

U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
ID, SECRET = st.binary(min_size=16, max_size=16), st.binary(min_size=32, max_size=32)
RANGES = st.lists(
    st.tuples(st.integers(0, 2**40), st.integers(1, 2**30)), min_size=1, max_size=50
).map(lambda pairs: np.array(pairs, np.int64))
NOTE = st.binary(max_size=MAX_NOTE_BYTES)
SLICE_BYTES = st.integers(frames.MIN_SLICE_BYTES, frames.MAX_SLICE_BYTES)


@st.composite
def eager(draw: st.DrawFn) -> frames.Eager:
    lengths = draw(st.lists(st.integers(1, 100), min_size=1, max_size=9))
    ranges = np.array([(7, length) for length in lengths], np.int64)
    note, payload = draw(st.binary(max_size=50)), bytes(sum(lengths))
    rest = frames.packed(ranges) + note + payload
    fixed = draw(U32), draw(ID), draw(SECRET)
    return frames.Eager(*fixed, len(ranges), len(note), rest)


FRAMES = st.one_of(
    st.builds(
        frames.Hello,
        st.just(b"PSTE"),
        st.just(1),
        U32.map(lambda x: x % 2),
        ID,
        ID,
        SECRET,
    ),
    st.builds(frames.Open, U32, st.booleans(), SLICE_BYTES, ID, SECRET, SECRET, NOTE),
    st.builds(frames.Add, U32, RANGES.map(frames.packed)),
    st.builds(frames.Finish, U32, U64),
    eager(),
    st.builds(frames.Fail, U32, U32.map(lambda x: x % 2**16), st.binary(max_size=512)),
    st.builds(frames.Have, U32, U32, st.binary(max_size=99)),
    *(st.builds(kind, U32) for kind in (frames.Done, frames.Lost, frames.Known)),
    *(st.builds(kind) for kind in (frames.Ping, frames.Pong, frames.Bye)),
)


def read(data: bytes) -> frames.Frame:
    return frames.read_frame(io.BytesIO(data).read)


@given(FRAMES)
def test_what_is_encoded_is_read_back(frame: frames.Frame) -> None:
    assert read(frame.encode()) == frame


@given(FRAMES, st.data())
def test_a_cut_frame_is_broken(frame: frames.Frame, data: st.DataObject) -> None:
    whole = frame.encode()
    with pytest.raises(TransferBroken):
        read(whole[: data.draw(st.integers(0, len(whole) - 1))])


@given(FRAMES, st.data())
def test_a_flipped_bit_is_found(frame: frames.Frame, data: st.DataObject) -> None:
    changed = bytearray(frame.encode())
    bit = data.draw(st.integers(0, 8 * len(changed) - 1))
    changed[bit // 8] ^= 1 << bit % 8
    # A longer frame than was sent does not come to its end.
    with pytest.raises((TransferIntegrityError, TransferBroken)):
        read(bytes(changed))


@given(FRAMES, st.lists(st.integers(1, 40)))
def test_a_frame_may_arrive_in_any_pieces(
    frame: frames.Frame, pieces: list[int]
) -> None:
    source, sizes = io.BytesIO(frame.encode()), itertools.chain(pieces)

    def receive(size: int) -> bytes:
        return source.read(min(size, next(sizes, size)))

    assert frames.read_frame(receive) == frame
    assert not source.read()


@given(st.binary(max_size=300))
def test_garbage_is_an_error_with_a_name(garbage: bytes) -> None:
    try:
        frame = read(garbage)
    except TransferError:
        return
    assert garbage.startswith(frame.encode())


def test_sizes_are_bounded_before_anything_is_received() -> None:
    asked: list[int] = []

    def receive(size: int) -> bytes:
        asked.append(size)
        return struct.pack("!IB3sQ", 2**31, frames.Add.kind, bytes(3), 0)

    with pytest.raises(TransferIntegrityError, match="2147483648"):
        frames.read_frame(receive)
    assert asked == [16]


@given(RANGES)
def test_ranges_travel_as_they_are(ranges: np.ndarray) -> None:
    assert (frames.unpacked(frames.packed(ranges)) == ranges).all()


@pytest.mark.parametrize(
    "table",
    [b"", bytes(15), frames.packed(np.array([[0, 0]])), struct.pack("<qq", -1, 5)],
)
def test_malformed_tables_are_value_errors(table: bytes) -> None:
    with pytest.raises(ValueError, match="range|multiple"):
        frames.unpacked(table)


def test_a_small_write_must_fill_its_ranges() -> None:
    table = frames.packed(np.array([[0, 5]]))
    frame = frames.Eager(1, bytes(16), bytes(32), 1, 2, table + b"hi" + b"1234")
    with pytest.raises(ValueError, match="4 bytes do not fill"):
        frame.parts()


def test_a_small_write_has_a_short_note() -> None:
    table, note = frames.packed(np.array([[0, 1]])), bytes(MAX_NOTE_BYTES + 1)
    counts = 1, len(note)
    frame = frames.Eager(1, bytes(16), bytes(32), *counts, table + note + b"1")
    with pytest.raises(ValueError, match="note of 4097"):
        frame.parts()


@pytest.mark.parametrize(
    ("frame", "match"),
    [
        (frames.Hello(b"HTTP", 1, 0, bytes(16), bytes(16), bytes(32)), "HTTP"),
        (frames.Hello(b"PSTE", 9, 0, bytes(16), bytes(16), bytes(32)), "version 9"),
    ],
)
def test_another_protocol_is_named(frame: frames.Hello, match: str) -> None:
    with pytest.raises(TransferIntegrityError, match=match):
        frame.check()


@given(
    U32,
    st.integers(0, frames.MAX_SLICES - 1),
    st.integers(1, frames.MAX_SLICE_BYTES),
    U64,
)
def test_slice_heads_are_read_back(
    transfer: int, number: int, length: int, sequence: int
) -> None:
    head = SliceHead(transfer, number, length, sequence)
    assert SliceHead.unpack(head.pack() + bytes(16)) == head
    assert len(head.pack()) + 16 == HEAD_BYTES


@pytest.mark.parametrize("number, length", [(frames.MAX_SLICES, 1), (0, 0), (0, 2**25)])
def test_slices_out_of_bounds_are_refused(number: int, length: int) -> None:
    with pytest.raises(TransferIntegrityError, match="slice"):
        SliceHead.unpack(SliceHead(1, number, length, 0).pack() + bytes(16))


@given(st.integers(0, 8 * (HEAD_BYTES - 16) - 1))
def test_a_flipped_bit_in_the_head_of_a_slice_is_found(bit: int) -> None:
    changed = bytearray(SliceHead(7, 3, 65536, 9).pack() + bytes(16))
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(TransferIntegrityError):
        SliceHead.unpack(bytes(changed))


def test_a_stream_of_something_else_is_named() -> None:
    with pytest.raises(TransferIntegrityError, match="GET "):
        SliceHead.unpack(b"GET / HTTP/1.1\r\n".ljust(HEAD_BYTES))


@given(st.sets(st.integers(0, 5000)), st.sets(st.integers(0, 5000)))
def test_a_ledger_knows_what_arrived(noted: set[int], asked: set[int]) -> None:
    ledger = Ledger()
    for number in noted:
        ledger.enter(number)
    for copy in (ledger, Ledger.from_bytes(ledger.to_bytes())):
        assert copy.count == len(noted)
        assert {number for number in asked if number in copy} == noted & asked
