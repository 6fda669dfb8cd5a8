"""Frames survive any split; garbage ends in a `TransferError`, never in a hang."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefillshare.errors import TransferBroken, TransferError, TransferIntegrityError
from prefillshare.transfer.tickets import wire

U64 = st.integers(0, 2**64 - 1)
FRAMES: st.SearchStrategy[wire.Frame] = st.one_of(
    st.builds(
        wire.Hello,
        st.binary(min_size=16, max_size=16),
        st.binary(min_size=32, max_size=32),
    ),
    st.builds(
        wire.Grant,
        st.integers(1, 64),
        st.integers(4096, wire.MAX_BLOCK_BYTES),
        st.just(4096),
    ),
    st.builds(
        wire.Slice,
        st.integers(0, wire.MAX_BLOCKS - 1),
        st.integers(0, wire.MAX_BLOCK_BYTES - 1),
        st.integers(1, wire.MAX_SLICE_BYTES),
        U64,
    ),
    st.just(wire.Done()),
    st.builds(wire.Failure, st.sampled_from(wire.ErrorCode), st.text(max_size=100)),
)


class Source:
    """A stream that arrives in chunks cut at the given places, then ends."""

    def __init__(self, data: bytes, *cuts: int) -> None:
        ends = [*sorted(cuts), len(data)]
        starts = [0, *ends[:-1]]
        pairs = zip(starts, ends, strict=True)
        self._chunks = [data[a:b] for a, b in pairs if a < b]

    def __call__(self, view: memoryview) -> int:
        if not self._chunks:
            return 0
        chunk = self._chunks.pop(0)
        if rest := chunk[len(view) :]:
            self._chunks.insert(0, rest)
        taken = chunk[: len(view)]
        view[: len(taken)] = taken
        return len(taken)


@given(FRAMES, st.data())
def test_round_trip_split_at_any_byte(frame: wire.Frame, data: st.DataObject) -> None:
    encoded = wire.encode(frame)
    cut = data.draw(st.integers(0, len(encoded)))
    source = Source(encoded * 2, cut, len(encoded) + cut)
    assert wire.read_frame(source) == frame
    assert wire.read_frame(source) == frame


@given(FRAMES, st.data())
def test_truncation_is_a_broken_transfer(
    frame: wire.Frame, data: st.DataObject
) -> None:
    encoded = wire.encode(frame)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(TransferBroken):
        wire.read_frame(Source(encoded[:cut]))


@given(st.binary(max_size=200), st.integers(0, 255), st.booleans())
def test_garbage_raises_only_transfer_errors(
    data: bytes, kind: int, framed: bool
) -> None:
    if framed:
        data = wire.MAGIC + bytes([wire.VERSION, kind % 7, 0, 0]) + data
    source = Source(data)
    with pytest.raises(TransferError):  # It ends, if only at the end of the stream.
        while True:
            wire.read_frame(source)


@given(st.text(min_size=1000, max_size=2000))
def test_error_text_is_bounded(text: str) -> None:
    encoded = wire.encode(wire.Failure(wire.ErrorCode.REFUSED, text))
    assert len(encoded) <= wire.HEAD_BYTES + wire.MAX_ERROR_BYTES
    assert isinstance(wire.read_frame(Source(encoded)), wire.Failure)


def test_other_magic_and_version_are_rejected() -> None:
    good = wire.encode(wire.Done())
    with pytest.raises(TransferIntegrityError, match="HTTP"):
        wire.read_frame(Source(b"HTTP" + good[4:]))
    with pytest.raises(TransferIntegrityError, match="version 9"):
        wire.read_frame(Source(good[:4] + b"\x09" + good[5:]))


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (2, struct.pack("!IQI", 2**32 - 1, 4096, 4096)),
        (2, struct.pack("!IQI", 1, 2**63, 4096)),
        (2, struct.pack("!IQI", 1, 4096, 0)),
        (2, struct.pack("!IQI", wire.MAX_BLOCKS, wire.MAX_BLOCK_BYTES, 1)),
        (3, struct.pack("!IQIQ", 0, 0, wire.MAX_SLICE_BYTES + 1, 0)),
        (5, struct.pack("!HH", 1, wire.MAX_ERROR_BYTES + 1)),
    ],
)
def test_sizes_beyond_the_bounds_are_rejected_from_the_head(
    kind: int, body: bytes
) -> None:
    head = wire.MAGIC + bytes([wire.VERSION, kind, 0, 0]) + body.ljust(24, b"\0")
    with pytest.raises(TransferIntegrityError):
        wire.read_frame(Source(head))


def test_ledger_wants_every_slice_once() -> None:
    grant = wire.Grant(2, 10, 4)
    ledger = wire.SliceLedger(grant)
    parts = [wire.Slice(b, s, e - s, 0) for b, s, e in wire.spans(2, 10, 4)]
    for part in parts[1:]:
        ledger.enter(part)
    with pytest.raises(TransferIntegrityError, match="1 of 6 slices"):
        ledger.finish()
    for bad in (parts[1], wire.Slice(2, 0, 4, 0), wire.Slice(0, 2, 4, 0)):
        with pytest.raises(TransferIntegrityError):
            ledger.enter(bad)
    for offset, length in ((8, 4), (12, 4), (0, 3)):
        with pytest.raises(TransferIntegrityError):
            ledger.enter(wire.Slice(0, offset, length, 0))
    ledger.enter(parts[0])
    ledger.finish()
