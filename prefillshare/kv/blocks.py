"""A fixed pool of equally sized, reference-counted blocks of bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
import xxhash

from prefillshare.errors import CapacityError


class BlockPool:
    """`num_blocks` blocks of `bytes_per_block` bytes in one contiguous buffer.

    A block is free (reference count 0) or held (1 or more). Only held blocks can be
    read or written; what a block holds right after `allocate` is undefined. A method
    that raises has changed nothing. Not thread-safe: one thread owns the pool.

    Attributes:
        num_blocks: blocks in the pool, held and free.
        bytes_per_block: size of a block in bytes.
        memory: all blocks, uint8 `[num_blocks, bytes_per_block]`.
    """

    def __init__(
        self, num_blocks: int, bytes_per_block: int, memory: memoryview | None = None
    ) -> None:
        """Lay the pool over `memory`, or reserve some, whose pages come on first use.

        Raises:
            ValueError: `num_blocks` or `bytes_per_block` is below 1, or `memory` is
                not of that size, writable and contiguous.
        """
        if num_blocks < 1 or bytes_per_block < 1:
            raise ValueError(
                "a pool needs at least 1 block of at least 1 byte, "
                f"not {num_blocks} blocks of {bytes_per_block} bytes"
            )
        self.num_blocks = num_blocks
        self.bytes_per_block = bytes_per_block
        self.memory = _laid_over(memory, num_blocks, bytes_per_block)
        self._array = self.memory.numpy()
        self._refcounts = [0] * num_blocks
        # A stack: the block freed last is handed out first, so that a lightly used
        # pool stays on pages that are already committed.
        self._free = list(range(num_blocks - 1, -1, -1))

    @property
    def free_blocks(self) -> int:
        """Number of blocks that nobody holds."""
        return len(self._free)

    def can_allocate(self, n: int) -> bool:
        """Whether `allocate(n)` would succeed now."""
        return 0 <= n <= len(self._free)

    def allocate(self, n: int) -> list[int]:
        """Ids of `n` blocks that were free, each now held once.

        Raises:
            CapacityError: fewer than `n` blocks are free.
            ValueError: `n` is negative.
        """
        if n < 0:
            raise ValueError(f"cannot allocate {n} blocks")
        if n > len(self._free):
            raise CapacityError(
                f"{n} KV blocks wanted, {len(self._free)} of {self.num_blocks} free "
                f"({self.bytes_per_block} bytes each): free or evict blocks, "
                "or configure a larger pool"
            )
        ids = [self._free.pop() for _ in range(n)]
        for i in ids:
            self._refcounts[i] = 1
        return ids

    def share(self, ids: Sequence[int]) -> None:
        """Hold each block in `ids` once more, as often as it occurs there.

        Raises:
            ValueError: a block is free or its id is out of range.
        """
        for i in ids:
            self._check_held(i)
        for i in ids:
            self._refcounts[i] += 1

    def free(self, ids: Sequence[int]) -> None:
        """Hold each block in `ids` once less, as often as it occurs there.

        A block that nobody holds any more is free.

        Raises:
            ValueError: a block occurs more often than it is held, or its id is out
                of range.
        """
        for i, times in Counter(ids).items():
            if times > self.refcount(i):
                raise ValueError(
                    f"block {i} is to be freed {times}x but is held "
                    f"{self._refcounts[i]}x"
                )
        for i in ids:
            self._refcounts[i] -= 1
            if self._refcounts[i] == 0:
                self._free.append(i)

    def refcount(self, block: int) -> int:
        """How often `block` is held; 0 if it is free.

        Raises:
            ValueError: the id is out of range.
        """
        if not 0 <= block < self.num_blocks:
            raise ValueError(
                f"no block {block}: the pool has blocks 0 to {self.num_blocks - 1}"
            )
        return self._refcounts[block]

    def view(self, block: int) -> torch.Tensor:
        """The block's memory, uint8 `[bytes_per_block]`, without a copy.

        Raises:
            ValueError: the block is free or its id is out of range.
        """
        self._check_held(block)
        return self.memory[block]

    def buffer(self, block: int) -> memoryview:
        """The block's memory as `bytes_per_block` writable bytes, without a copy.

        Raises:
            ValueError: the block is free or its id is out of range.
        """
        self._check_held(block)
        return memoryview(self._array[block])

    def digest(self, block: int) -> bytes:
        """XXH3-128 of the block's bytes: 16 bytes, big-endian.

        It finds accidental damage; it is no protection against forgery.

        Raises:
            ValueError: the block is free or its id is out of range.
        """
        return xxhash.xxh3_128_digest(self.buffer(block))

    def check_integrity(self) -> None:
        """Check that free list and reference counts agree.

        Raises:
            AssertionError: they do not; the message gives blocks and numbers.
        """
        twice = sorted(i for i, n in Counter(self._free).items() if n > 1)
        assert not twice, f"{len(twice)} blocks more than once in free list: {twice}"
        negative = [i for i, n in enumerate(self._refcounts) if n < 0]
        assert not negative, f"{len(negative)} reference counts below 0: {negative}"
        listed = set(self._free)
        unheld = {i for i, n in enumerate(self._refcounts) if n == 0}
        leaked = sorted(unheld - listed)
        assert not leaked, f"{len(leaked)} blocks neither held nor free: {leaked}"
        both = sorted(listed - unheld)
        assert not both, f"{len(both)} blocks in free list but held: {both}"

    def _check_held(self, block: int) -> None:
        if self.refcount(block) == 0:
            raise ValueError(f"block {block} is free: allocate it first")


def _laid_over(memory: memoryview | None, blocks: int, size: int) -> torch.Tensor:
    if memory is None:
        return torch.empty((blocks, size), dtype=torch.uint8)
    if memory.readonly or not memory.c_contiguous or memory.nbytes != blocks * size:
        raise ValueError(
            f"{blocks} blocks of {size} bytes need {blocks * size} writable and "
            f"contiguous bytes, not these {memory.nbytes}"
        )
    return torch.frombuffer(memory, dtype=torch.uint8).view(blocks, size)
