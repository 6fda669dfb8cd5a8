"""What is fuzzed: each target takes bytes, and raises only if that is a finding.

The named errors of a malformed input are what a target expects. Anything else that is
raised, logged as a defect or left behind is a finding; so is memory beyond `BOUNDS`.
"""

from __future__ import annotations

import contextlib
import io
import json
import struct
from collections.abc import Callable

from prefillshare.errors import (
    TransferBroken,
    TransferIdentityError,
    TransferIntegrityError,
)
from prefillshare.transfer.base import MAX_NOTE_BYTES, Grant
from prefillshare.transfer.secure.identity import PeerIdentity
from prefillshare.transfer.tcp import frames
from prefillshare.transfer.tcp.slices import HEAD_BYTES, SliceHead
from tests.transfer.fuzz.hosting import answers, host
from tests.transfer.fuzz.lending import greeting, session
from tests.transfer.fuzz.programs import framed
from tests.transfer.fuzz.signing import certificate

Target = Callable[[bytes], None]
MIB = 1 << 20
LARGEST_FRAME = 16 * frames.MAX_RANGES + 256


def frame(data: bytes) -> None:
    """Frames one after the other, as they come and with their checksums mended."""
    for mend in (False, True):
        source = io.BytesIO(_mended(data) if mend else data)
        asked = 0

        def receive(size: int, source: io.BytesIO = source) -> bytes:
            nonlocal asked
            asked += size
            assert size <= LARGEST_FRAME
            return source.read(size)

        with contextlib.suppress(TransferIntegrityError, TransferBroken):
            for place in range(len(data)):
                asked = 0
                _use(frames.read_frame(receive, place))
                assert asked <= LARGEST_FRAME


def _mended(data: bytes) -> bytes:
    """The first byte a kind, the next two a length, and so on, made into frames."""
    whole, place = b"", 0
    while len(data) >= 3:
        size = int.from_bytes(data[1:3])
        whole += framed(data[0], data[3 : 3 + size], place)
        data, place = data[3 + size :], place + 1
    return whole


def _use(found: frames.Frame) -> None:
    # Only a byte that stands for true may be another after a round.
    again = frames.read_frame(io.BytesIO(found.encode()).read)
    assert again == found
    with contextlib.suppress(ValueError):
        if isinstance(found, frames.Add):
            assert len(found.ranges) <= frames.MAX_RANGES
        if isinstance(found, frames.Eager):
            ranges, note, payload = found.parts()
            assert len(ranges) <= frames.MAX_EAGER_RANGES
            assert len(note) <= MAX_NOTE_BYTES
            assert payload.nbytes <= frames.Eager.tail


def slice_head(data: bytes) -> None:
    """The head of a slice, as it comes and with its checksum mended."""
    data = data.ljust(HEAD_BYTES, b"\0")
    transfer, number, length, sequence = struct.unpack_from("!IIIQ", data, 4)
    mended = SliceHead(transfer, number, length, sequence).pack() + data[24:]
    for each in (data[:HEAD_BYTES], mended[:HEAD_BYTES]):
        with contextlib.suppress(TransferIntegrityError):
            found = SliceHead.unpack(each)
            assert found.pack() + each[-16:] == each
            assert found.number < frames.MAX_SLICES
            assert 1 <= found.length <= frames.MAX_SLICE_BYTES


def grant(data: bytes) -> None:
    """What a peer gives for a grant, as JSON."""
    with contextlib.suppress(ValueError, RecursionError):
        raw = json.loads(data)
        if isinstance(raw, dict):
            found = Grant.from_dict(raw)
            assert Grant.from_dict(found.to_dict()) == found
            assert len(bytes.fromhex(found.capability)) == 32
            assert found.capability not in repr(found)


def identity(data: bytes) -> None:
    """A URI, and the names of a certificate, one a line."""
    text = data.decode(errors="replace")
    with contextlib.suppress(ValueError):
        found = PeerIdentity.from_uri(text)
        assert found.uri == text and found.uri.isascii() and len(text) < 210
    names = [("URI", line) for line in text.split("\n")]
    with contextlib.suppress(TransferIdentityError):
        found = PeerIdentity.from_certificate({"subjectAltName": names})
        assert names == [("URI", found.uri)]


TARGETS: dict[str, Target] = {
    "frame": frame,
    "slice_head": slice_head,
    "grant": grant,
    "identity": identity,
    "certificate": certificate,
    "greeting": greeting,
    "session": session,
    "host": host,
    "answers": answers,
}
# Bytes that an input may have allocated at once, the longest inputs of the corpus and
# what they are checked with included.
BOUNDS = {
    "frame": 4 * MIB,
    "slice_head": MIB,
    "grant": MIB,
    "identity": MIB,
    "certificate": MIB,
    "greeting": 4 * MIB,
    "session": 8 * MIB,
    # Two lengths announce a message, and room for it is made.
    "host": 140 * MIB,
    "answers": 140 * MIB,
}
