"""Who takes part in the transfer benchmark, at which settings, and what is aimed at."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from prefillshare.config import Config
from prefillshare.transfer.linkemu.shaper import LinkSettings

# Between two processes, over loopback: one piece, blocks, the bytes of the small blocks
# in larger ones, and the delay of one small write; then over a slow and long link, and
# what an agent has resident. Without a peer: the link emulator against its settings, a
# cache handed over in shared memory, and a file from its first byte to its last.
Shape = Literal[
    "contiguous",
    "scattered",
    "small",
    "grouped",
    "latency",
    "delayed",
    "memory",
    "link",
    "handover",
    "sequential",
]
SHAPES: tuple[Shape, ...] = get_args(Shape)
# A key of a cache that is handed over: 128 values, float32.
ROW_BYTES = 4 * 128
BULK: tuple[Shape, ...] = ("contiguous", "scattered", "small", "grouped")
# What else runs while delays are taken: nothing, or a loop like a decoder's in another
# process of the machine, or in a thread of the caller's own.
Load = Literal["idle", "neighbour", "caller"]
Measure = Literal["gbps", "p50_us", "p99_us", "cpu_seconds_per_gb", "extra_bytes"]
# What is measured on one core, without another end.
ONE_CORE = {"aes-gcm", "xxh3"}
PeerName = Literal["socket", "mooncake", "nixl"]


class Ours(Config):
    """One way to set this project's engine; null leaves its own default.

    `encrypted` seals every slice (the tag is its checksum) over TLS connections;
    otherwise slices carry a checksum. With `agent`, an agent process at each end moves
    the bytes, beside the process that asks for them. `shapes` are those it takes part
    in, null in all.
    """

    name: str
    streams: int | None = Field(None, ge=1)
    slice_bytes: int | None = Field(None, ge=4096)
    encrypted: bool = False
    agent: bool = False
    shapes: list[Shape] | None = None


class Bare(Config):
    """Plain Python sockets without checksums, the baseline; or `ssl` sockets.

    A call moves up to `call_bytes`. `buffer_bytes` is what the kernel is asked for as
    send and receive buffer; null leaves them to grow by themselves. With `tls` the
    sockets are Python's `ssl` sockets, TLS 1.3. With `handed`, threads that do nothing
    else read the sockets and hand on that something came, as an engine's must: to the
    owner of the memory at one end, to who waits for the answer at the other.
    """

    name: str
    streams: int = Field(1, ge=1)
    call_bytes: int = Field(1 << 20, ge=4096)
    buffer_bytes: int | None = Field(None, ge=4096)
    tls: bool = False
    handed: bool = False
    shapes: list[Shape] | None = None


class Cipher(Config):
    """AES-256-GCM of the library that the engine uses, on one core, by itself."""

    name: str
    slice_bytes: int = Field(1 << 20, ge=4096)


class Checksum(Config):
    """The checksum of the engine's slices, on one core, by itself."""

    name: str
    slice_bytes: int = Field(1 << 20, ge=4096)


class Program(Config):
    """A peer's program in the folder of `--peers`, with variables of its environment.

    The program is `PEER_bench.py`. It prints a JSON line for each figure.
    """

    peer: PeerName
    name: str = "default"
    environment: dict[str, str] = {}


class CheckedLink(LinkSettings):
    """A link that the emulator is asked for, to see whether it is one.

    With a rate, bytes are sent over it; without, small writes go to and fro.
    """

    name: str


class Fio(Config):
    """A set of fio's options: what is under way at a time, and the bytes of a call."""

    name: str
    depth: int = Field(4, ge=1)
    block_bytes: int = Field(1 << 20, ge=4096)


class Target(Config):
    """What the median ratio is to be: at least `ratio`, and at most `at_most`.

    `ours` and `other` are labels as the page has them, with `*` for anything; `ours` is
    the first of our settings by default. Null for `ratio`: it is only stated. Apart
    from labels, `other` may be "own contiguous" or "own grouped", its own rate at
    that shape, "the set rate", "the set delay" or "the bound". Cases in which the
    contestant `carried_by` misses the target itself are only stated: no more can be
    had there.
    """

    shape: Shape
    measure: Measure = "gbps"
    case: str | None = None
    ours: str | None = None
    other: str
    ratio: float | None = Field(gt=0)
    at_most: float | None = Field(None, gt=0)
    carried_by: str | None = None
