"""The shapes of transfers: which bytes go where, and whether they got there.

Block `sources[i]` of the sender's buffer goes to block `targets[i]` of the receiver's.
Both are drawn without order from all of a buffer's blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from prefillshare.bench.transfer.settings import Shape, TransferBenchSettings
from prefillshare.transfer.base import Batch

Memory = NDArray[np.uint8]

_PAGE = 4096
_CHUNK = 16 << 20


@dataclass(frozen=True)
class Plan:
    """`count` blocks of `block` bytes, within the first `size` bytes of a buffer."""

    shape: Shape
    size: int
    block: int
    count: int

    @property
    def payload(self) -> int:
        """Bytes that one transfer moves."""
        return self.block * self.count

    @cached_property
    def sources(self) -> NDArray[np.int64]:
        """Numbers of the blocks that are sent, in their order."""
        return np.random.default_rng(7).permutation(self.size // self.block)[
            : self.count
        ]

    @cached_property
    def targets(self) -> NDArray[np.int64]:
        """Numbers of the blocks that they are written to."""
        return np.random.default_rng(8).permutation(self.size // self.block)[
            : self.count
        ]

    def batch(self) -> Batch:
        """(local, remote, length) of every block, in bytes."""
        lengths = np.full(self.count, self.block, np.int64)
        local, remote = self.sources * self.block, self.targets * self.block
        return np.stack([local, remote, lengths], axis=1)


def plan(settings: TransferBenchSettings, shape: Shape) -> Plan:
    """The plan of a shape at the sizes of the settings."""
    total = settings.total_bytes
    if shape == "contiguous":
        return Plan(shape, total, total, 1)
    if shape == "scattered":
        block = settings.scattered_block_bytes
        return Plan(shape, total, block, total // block)
    if shape == "small":
        return Plan(shape, total, settings.small_block_bytes, settings.small_blocks)
    return Plan(shape, settings.latency_bytes, settings.latency_bytes, 1)


def buffer(size: int) -> Memory:
    """Page-aligned memory of zeros that is resident."""
    raw = np.empty(size + _PAGE, np.uint8)
    start = -raw.ctypes.data % _PAGE
    memory = raw[start : start + size]
    memory[:] = 0
    return memory


def fill(memory: Memory, seed: int) -> None:
    """Write the bytes of a seed; the length must be a multiple of 8."""
    at = 0
    for chunk in _chunks(seed, len(memory), _CHUNK):
        memory[at : at + len(chunk)] = chunk
        at += len(chunk)


def check(memory: Memory, which: Plan, seed: int) -> bool:
    """Whether every block that was sent is where it belongs, and nothing else.

    `memory` was zero before; what it holds is compared in full.
    """
    memory = memory[: which.size]
    if which.count == 1:
        step = _CHUNK
        chunks = _chunks(seed, which.size, step)
        return all(
            np.array_equal(memory[i * step : (i + 1) * step], chunk)
            for i, chunk in enumerate(chunks)
        )
    blocks = memory.reshape(-1, which.block)
    landing = np.full(len(blocks), -1, np.int64)
    landing[which.sources] = which.targets
    many = max(1, _CHUNK // which.block)
    for i, chunk in enumerate(_chunks(seed, which.size, many * which.block)):
        to = landing[i * many : (i + 1) * many]
        sent = chunk.reshape(-1, which.block)[to >= 0]
        if not np.array_equal(blocks[to[to >= 0]], sent):
            return False
    untouched = np.setdiff1d(np.arange(len(blocks)), which.targets)
    return not any(
        blocks[untouched[i : i + many]].any() for i in range(0, len(untouched), many)
    )


def _chunks(seed: int, size: int, step: int) -> Iterator[Memory]:
    source = np.random.default_rng(seed)
    for at in range(0, size, step):
        count = min(step, size - at) // 8
        yield source.integers(0, 1 << 63, count, dtype=np.int64).view(np.uint8)
