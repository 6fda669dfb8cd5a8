"""Settings of the engine over TCP."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import Field

from prefillshare.config import Config
from prefillshare.transfer.tcp.frames import MAX_SLICE_BYTES, MIN_SLICE_BYTES

MAX_STREAMS = 64
# Of a peer, whatever this side's own are: its sealed slices pass through this side's
# memory, so many a stream.
ACCEPTED_STREAMS = 16
ACCEPTED_SLICE_BYTES = 1 << 22
_SLICE_BYTES = 1 << 20
# Of smaller pieces a large slice has so many that, hashed or copied once, it is not in
# a core's cache any more when it is sent.
_LARGE_PIECE, _SMALL_PIECE = 1 << 20, 1 << 15


def _one_a_core() -> int:
    """Streams share the cores, and one that fails has its share taken by another."""
    return min(4, max(2, len(os.sched_getaffinity(0))))


class TcpSettings(Config):
    """How one engine moves bytes; each side has its own for what it sends.

    `streams` are the data connections of a link, made by the side that connects; by
    default one for each core, two to four. A long path may want more: each is held to
    its own window. `slice_bytes` go out at a time on one of them; by default that
    depends on the transfer, see `slices_of`.
    `sealed: auto` encrypts between sites, by region and site of the certificates, and
    has checksums within one. `rate_gbps` caps what leaves over one link, in 1e9 bits
    per second. `bandwidth_gbps` and `rtt_seconds` of the path size the sockets'
    buffers, where the kernel does not reach that size by itself. A peer that is silent
    for `dead_seconds` is dead. Memory of a transfer that is over is free after
    `grace_seconds` at the latest: streams that are still at it are broken off. A broken
    stream is made again after `retry_seconds`, then after twice that, up to a
    hundredfold.

    `streams` and `slice_bytes` also say what a peer may ask of this side: as much as
    this side does itself, and `ACCEPTED_STREAMS` and `ACCEPTED_SLICE_BYTES` anyway.
    """

    streams: int = Field(default_factory=_one_a_core, ge=1, le=MAX_STREAMS)
    slice_bytes: int | None = Field(None, ge=MIN_SLICE_BYTES, le=MAX_SLICE_BYTES)
    sealed: Literal["auto", "always", "never"] = "auto"
    rate_gbps: float | None = Field(None, gt=0.0)
    bandwidth_gbps: float | None = Field(None, gt=0.0)
    rtt_seconds: float | None = Field(None, gt=0.0)
    dead_seconds: float = Field(15.0, gt=0.0, le=600.0)
    grace_seconds: float = Field(0.25, gt=0.0, le=5.0)
    retry_seconds: float = Field(0.1, gt=0.0, le=60.0)
    handshake_seconds: float = Field(5.0, gt=0.0, le=60.0)
    max_sessions: int = Field(256, ge=1)

    @property
    def bytes_per_second(self) -> float | None:
        """The cap of a link."""
        return self.rate_gbps * 1e9 / 8 if self.rate_gbps is not None else None

    @property
    def open_streams(self) -> int:
        """That a session has at most: those that broke count until both know it."""
        return 2 * max(self.streams, ACCEPTED_STREAMS)

    @property
    def accepted_slice_bytes(self) -> int:
        """The largest slices that a peer may cut a transfer into."""
        return max(self.slice_bytes or 0, ACCEPTED_SLICE_BYTES)

    def slices_of(self, size: int, pieces: int, *, sealed: bool) -> int:
        """Bytes of each slice of a transfer of so many bytes in so many pieces.

        Pieces are what this side knows of: its own memory, and the batch; not how the
        peer's memory is cut. Large slices cost less: each is a few statements of Python
        on either side. Small pieces go in small ones, sealed pieces too, which are
        copied once more; so does what this side moves over a link that it caps, since
        each slice leaves at once, and what is fed (`size` 0). Every stream gets a few.
        """
        if self.slice_bytes is not None:
            return self.slice_bytes
        if self.rate_gbps is not None or size < pieces * _SMALL_PIECE:
            return _SLICE_BYTES
        most = ACCEPTED_SLICE_BYTES
        if size < pieces * _LARGE_PIECE:
            most = _SLICE_BYTES if sealed else 2 * _SLICE_BYTES
        while most > _SLICE_BYTES and 4 * self.streams * most > size:
            most //= 2
        return most

    @property
    def buffer_bytes(self) -> int | None:
        """Bandwidth times delay, a stream's share; None leaves it to the kernel."""
        if self.bandwidth_gbps is None or self.rtt_seconds is None:
            return None
        whole = self.bandwidth_gbps * 1e9 / 8 * self.rtt_seconds
        return max(1 << 16, int(whole / self.streams))
