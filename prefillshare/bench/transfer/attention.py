"""A cache as bytes in blocks, and what a decoder's first query does with it."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64

from prefillshare.bench.transfer.shapes import Memory
from prefillshare.bench.transfer.specs import ROW_BYTES

HEAD_DIM = ROW_BYTES // 4


def keys_into(block: Memory, number: int, source: NDArray[np.float32]) -> None:
    """Make a block's keys, as a prefill does: float32 [tokens, HEAD_DIM]."""
    np.multiply(source, np.float32(1 + number % 251), out=block.view(np.float32))


class Query:
    """One query of one head, and its scores over all keys."""

    def __init__(self, tokens: int) -> None:
        self._query = np.ones(HEAD_DIM, np.float32) / HEAD_DIM
        self.scores = np.zeros(tokens, np.float32)

    def read(self, blocks: Sequence[memoryview]) -> tuple[float, float]:
        """Score all keys; when the first block was read, and the last (monotonic)."""
        at, first = 0, 0.0
        for block in blocks:
            keys = np.frombuffer(block, np.float32).reshape(-1, HEAD_DIM)
            np.matmul(keys, self._query, out=self.scores[at : at + len(keys)])
            at += len(keys)
            first = first or time.monotonic()
        return first, time.monotonic()


def rows_of(size: int) -> int:
    """Keys in so many bytes."""
    return size // ROW_BYTES


def digest_of(blocks: Sequence[memoryview]) -> str:
    """Of all bytes, in their order."""
    hasher = xxh3_64()
    for block in blocks:
        hasher.update(block)
    return hasher.hexdigest()
