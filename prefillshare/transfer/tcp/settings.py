"""Settings of the engine over TCP."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from prefillshare.config import Config
from prefillshare.transfer.tcp.frames import MAX_SLICE_BYTES, MIN_SLICE_BYTES

MAX_STREAMS = 64
# Of a peer, whatever this side's own are: its sealed slices pass through this side's
# memory, so many a stream.
ACCEPTED_STREAMS = 16
ACCEPTED_SLICE_BYTES = 1 << 22


class TcpSettings(Config):
    """How one engine moves bytes; each side has its own for what it sends.

    `streams` are the data connections of a link, made by the side that connects.
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

    streams: int = Field(4, ge=1, le=MAX_STREAMS)
    slice_bytes: int = Field(1 << 20, ge=MIN_SLICE_BYTES, le=MAX_SLICE_BYTES)
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
        return max(self.slice_bytes, ACCEPTED_SLICE_BYTES)

    @property
    def buffer_bytes(self) -> int | None:
        """Bandwidth times delay, a stream's share; None leaves it to the kernel."""
        if self.bandwidth_gbps is None or self.rtt_seconds is None:
            return None
        whole = self.bandwidth_gbps * 1e9 / 8 * self.rtt_seconds
        return max(1 << 16, int(whole / self.streams))
