"""What the transfer benchmark measures, and between whom."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from prefillshare.config import Config

BulkShape = Literal["contiguous", "scattered", "small"]
Shape = Literal["contiguous", "scattered", "small", "latency"]
# What else runs while delays are taken: nothing, or a loop like a decoder's in another
# process of the machine, or in a thread of the caller's own.
Load = Literal["idle", "neighbour", "caller"]
PeerName = Literal["socket", "mooncake", "nixl"]


class Ours(Config):
    """One way to set this project's engine; null leaves its own default.

    `encrypted` seals every slice (the tag is its checksum) over TLS connections;
    otherwise slices carry a checksum. With `agent`, an agent process at each end moves
    the bytes, beside the process that asks for them.
    """

    name: str
    transport: Literal["tcp"] = "tcp"
    streams: int | None = Field(None, ge=1)
    slice_bytes: int | None = Field(None, ge=4096)
    encrypted: bool = False
    agent: bool = False


class Bare(Config):
    """Plain Python sockets without checksums, the baseline.

    A call moves up to `call_bytes`. `buffer_bytes` is what the kernel is asked for as
    send and receive buffer; null leaves them to grow by themselves.
    """

    name: str
    streams: int = Field(1, ge=1)
    call_bytes: int = Field(1 << 20, ge=4096)
    buffer_bytes: int | None = Field(None, ge=4096)


class Program(Config):
    """A peer's program in the folder of `--peers`, with variables of its environment.

    The program is `PEER_bench.py`. It prints a JSON line for each figure.
    """

    peer: PeerName
    name: str = "default"
    environment: dict[str, str] = {}


class Target(Config):
    """The median ratio to a peer that is aimed at, for the first of `ours`.

    `other` begins the label of those that it is measured against ("mooncake" is all of
    Mooncake's settings); "own contiguous" is its own rate for one piece.
    """

    shape: Shape
    other: str
    ratio: float = Field(gt=0)


class TransferBenchSettings(Config):
    """Sizes in bytes, times in seconds.

    `peers` is the folder of the peers' programs, null to run none of them; `pythons`
    names the interpreter that has a peer's package. Every contestant runs once a
    round, in fresh processes, and the order turns round with every round.
    """

    total_bytes: int = Field(1 << 30, ge=4096)
    rounds: int = Field(5, ge=1)
    shapes: list[BulkShape] = ["contiguous", "scattered", "small"]
    scattered_block_bytes: int = Field(64 << 10, ge=8)
    small_block_bytes: int = Field(4 << 10, ge=8)
    small_blocks: int = Field(100_000, ge=1)
    latency_bytes: int = Field(4 << 10, ge=8)
    latency_samples: int = Field(2_000, ge=0)
    loads: list[Load] = ["idle", "neighbour", "caller"]
    ours: list[Ours] = Field([Ours(name="checksum")], min_length=1)
    sockets: list[Bare] = [Bare(name="bare, 1 stream")]
    programs: list[Program] = []
    peers: Path | None = None
    pythons: dict[PeerName, Path] = {}
    timeout_seconds: float = Field(600.0, gt=0)
    targets: list[Target] = []

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for block in (self.scattered_block_bytes, self.small_block_bytes):
            if self.total_bytes % block or block % 8:
                raise ValueError(
                    f"total_bytes {self.total_bytes} is no multiple of blocks of "
                    f"{block} bytes, or these none of 8; choose powers of two"
                )
        small = self.small_blocks * self.small_block_bytes
        if (most := max(small, self.latency_bytes)) > self.total_bytes:
            raise ValueError(
                f"blocks of {most} bytes exceed total_bytes {self.total_bytes}; "
                "set fewer small_blocks or more total_bytes"
            )
        labels = [f"ours {each.name}" for each in self.ours]
        labels += [f"socket {each.name}" for each in self.sockets]
        labels += [f"{each.peer} {each.name}" for each in self.programs]
        if len(set(labels)) < len(labels):
            raise ValueError("two contestants have one name; name them apart")
        return self
