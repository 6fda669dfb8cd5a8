"""The shapes of transfers: which bytes go where, and whether they got there.

Block `sources[i]` of the sender's buffer goes to block `targets[i]` of the receiver's.
Both are drawn without order from all of a buffer's blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from prefillshare.bench.transfer.settings import TransferBenchSettings
from prefillshare.bench.transfer.specs import Shape
from prefillshare.transfer.base import Batch

Memory = NDArray[np.uint8]

_PAGE = 4096
_CHUNK = 16 << 20
_ODD = 0x9E3779B97F4A7C15


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
    total, large = settings.total_bytes, settings.scattered_block_bytes
    if shape == "scattered":
        return Plan(shape, total, large, total // large)
    if shape == "small":
        return Plan(shape, total, settings.small_block_bytes, settings.small_blocks)
    if shape == "grouped":
        return Plan(shape, total, large, settings.small_bytes // large)
    return piece(shape, settings.latency_bytes if shape == "latency" else total)


def piece(shape: Shape, size: int) -> Plan:
    """One piece of so many bytes."""
    return Plan(shape, size, size, 1)


def buffer(size: int) -> Memory:
    """Page-aligned memory of zeros that is resident."""
    raw = np.empty(size + _PAGE, np.uint8)
    start = -raw.ctypes.data % _PAGE
    memory = raw[start : start + size]
    memory[:] = 0
    return memory


class Noise:
    """The bytes of a seed, at any place: no two of its words are alike but by chance.

    One chunk is drawn; the others are that one with a number of their own in each word.
    """

    def __init__(self, seed: int) -> None:
        source = np.random.default_rng(seed)
        self._chunk = source.integers(0, 1 << 63, _CHUNK // 8, dtype=np.uint64)

    def put(self, at: int, memory: Memory) -> None:
        """Fill memory with the bytes from `at` on; all multiples of 8."""
        words, first, done = memory.view(np.uint64), at // 8, 0
        while done < len(words):
            chunk, start = divmod(first + done, len(self._chunk))
            part = self._chunk[start : start + len(words) - done]
            number = np.uint64((chunk + 1) * _ODD % (1 << 64))
            np.bitwise_xor(part, number, out=words[done : done + len(part)])
            done += len(part)

    def take(self, at: int, size: int) -> Memory:
        """So many bytes from `at` on."""
        memory = np.empty(size, np.uint8)
        self.put(at, memory)
        return memory


def fill(memory: Memory, seed: int) -> None:
    """Write the bytes of a seed; the length must be a multiple of 8."""
    Noise(seed).put(0, memory)


def check(memory: Memory, which: Plan, seed: int) -> bool:
    """Whether every block that was sent is where it belongs, and nothing else.

    `memory` was zero before; what it holds is compared in full.
    """
    noise, memory = Noise(seed), memory[: which.size]
    if which.count == 1:
        return all(
            np.array_equal(part, noise.take(at, len(part)))
            for at in range(0, which.size, _CHUNK)
            for part in [memory[at : at + _CHUNK]]
        )
    blocks, many = memory.reshape(-1, which.block), max(1, _CHUNK // which.block)
    landing = np.full(len(blocks), -1, np.int64)
    landing[which.sources] = which.targets
    for i in range(0, len(blocks), many):
        to = landing[i : i + many]
        sent = noise.take(i * which.block, len(to) * which.block)
        sent = sent.reshape(-1, which.block)
        if not np.array_equal(blocks[to[to >= 0]], sent[to >= 0]):
            return False
    untouched = np.setdiff1d(np.arange(len(blocks)), which.targets)
    return not any(
        blocks[untouched[i : i + many]].any() for i in range(0, len(untouched), many)
    )
