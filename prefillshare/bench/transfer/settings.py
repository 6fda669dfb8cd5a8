"""What the transfer benchmark measures, in which sizes, and how often."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from prefillshare.bench.transfer.specs import (
    ROW_BYTES,
    SHAPES,
    Bare,
    CheckedLink,
    Checksum,
    Cipher,
    Fio,
    Load,
    Ours,
    PeerName,
    Program,
    Shape,
    Target,
)
from prefillshare.config import Config

Part = Literal[
    "rates",
    "small",
    "encryption",
    "cpu",
    "latency",
    "delayed",
    "link",
    "handover",
    "sequential",
    "memory",
]


class DelayedSettings(Config):
    """Links through the emulator: rates in bits per second, times in seconds.

    `round_trip` is both ways together. As many bytes go over each as the rate carries
    in `seconds`, at most `total_bytes`.
    """

    rates: list[float] = [1e9, 4e9]
    round_trip: float = Field(0.08, ge=0)
    seconds: float = Field(4.0, gt=0)


class MemorySettings(Config):
    """What goes through agents while their memory is looked at, in bytes.

    `total_bytes` move through arenas of `arena_bytes`, filled again and again.
    """

    total_bytes: int = Field(4 << 30, ge=4096)
    arena_bytes: int = Field(256 << 20, ge=4096, multiple_of=4096)


class TransferBenchSettings(Config):
    """Sizes in bytes, times in seconds.

    `peers` is the folder of the peers' programs, null to run none of them; `pythons`
    names the interpreter that has a peer's package. Every contestant runs once a
    round, in fresh processes, and the order turns round with every round. Peers'
    programs and delayed links take long: they take part in the first `slow_rounds`. A
    checked link without a rate is asked for `link_seconds`.
    `folder` is where files are measured, null in the system's temporary folder.
    """

    total_bytes: int = Field(1 << 30, ge=4096)
    rounds: int = Field(5, ge=1)
    slow_rounds: int = Field(3, ge=1)
    shapes: list[Shape] = list(SHAPES)
    scattered_block_bytes: int = Field(64 << 10, ge=8)
    small_block_bytes: int = Field(4 << 10, ge=8)
    small_blocks: int = Field(100_000, ge=1)
    latency_bytes: int = Field(4 << 10, ge=8)
    latency_samples: int = Field(500, ge=1)
    loads: list[Load] = ["idle", "neighbour", "caller"]
    ours: list[Ours] = Field([Ours(name="checksum")], min_length=1)
    sockets: list[Bare] = [Bare(name="bare, 1 stream")]
    ciphers: list[Cipher] = []
    checksums: list[Checksum] = []
    programs: list[Program] = []
    links: list[CheckedLink] = []
    link_seconds: float = Field(6.0, gt=0)
    fio: list[Fio] = []
    delayed: DelayedSettings = DelayedSettings()
    memory: MemorySettings = MemorySettings()
    folder: Path | None = None
    peers: Path | None = None
    pythons: dict[PeerName, Path] = {}
    timeout_seconds: float = Field(600.0, gt=0)
    targets: dict[Part, list[Target]] = {}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for block in (self.scattered_block_bytes, self.small_block_bytes):
            if self.total_bytes % block or block % 8:
                raise ValueError(
                    f"total_bytes {self.total_bytes} is no multiple of blocks of "
                    f"{block} bytes, or these none of 8; choose powers of two"
                )
        if (most := max(self.small_bytes, self.latency_bytes)) > self.total_bytes:
            raise ValueError(
                f"blocks of {most} bytes exceed total_bytes {self.total_bytes}; "
                "set fewer small_blocks or more total_bytes"
            )
        if "grouped" in self.shapes and self.small_bytes % self.scattered_block_bytes:
            raise ValueError(
                f"the {self.small_bytes} bytes of small blocks are no whole blocks of "
                f"{self.scattered_block_bytes} bytes; set other small_blocks, or leave "
                "grouped out of shapes"
            )
        if "handover" in self.shapes and self.scattered_block_bytes % ROW_BYTES:
            raise ValueError(
                f"blocks of {self.scattered_block_bytes} bytes hold no whole keys of "
                f"{ROW_BYTES} bytes; set other scattered_block_bytes, or leave "
                "handover out of shapes"
            )
        return self

    @model_validator(mode="after")
    def _named_apart(self) -> Self:
        labels = [f"ours {each.name}" for each in self.ours]
        labels += [f"socket {each.name}" for each in self.sockets]
        labels += [f"{each.peer} {each.name}" for each in self.programs]
        labels += [f"cipher {each.name}" for each in self.ciphers]
        labels += [f"checksum {each.name}" for each in self.checksums]
        labels += [f"link {each.name}" for each in self.links]
        labels += [f"fio {each.name}" for each in self.fio]
        if len(set(labels)) < len(labels):
            raise ValueError("two contestants have one name; name them apart")
        return self

    @property
    def small_bytes(self) -> int:
        """Bytes of all small blocks."""
        return self.small_blocks * self.small_block_bytes

    def shapes_of(self, spec: Ours | Bare) -> list[Shape]:
        """Those that a contestant takes part in."""
        return [
            each for each in self.shapes if spec.shapes is None or each in spec.shapes
        ]
