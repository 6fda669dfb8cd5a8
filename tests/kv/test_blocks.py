from __future__ import annotations

import pytest
import torch
import xxhash
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from prefillshare.errors import CapacityError
from prefillshare.kv.blocks import BlockPool

BLOCKS = 6
BYTES = 5
ids_strategy = st.lists(st.integers(-1, BLOCKS), max_size=4)


class PoolMachine(RuleBasedStateMachine):
    """The pool against plain reference counts and the bytes last written."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(BLOCKS, BYTES)
        self.counts = [0] * BLOCKS
        self.content: dict[int, bytes] = {}

    def held(self, ids: list[int]) -> bool:
        return all(0 <= i < BLOCKS and self.counts[i] for i in ids)

    @rule(n=st.integers(-1, BLOCKS + 1), fill=st.integers(0, 255))
    def allocate(self, n: int, fill: int) -> None:
        free = self.counts.count(0)
        assert self.pool.can_allocate(n) == (0 <= n <= free)
        if not 0 <= n <= free:
            with pytest.raises(ValueError if n < 0 else CapacityError):
                self.pool.allocate(n)
            return
        ids = self.pool.allocate(n)
        assert len(ids) == len(set(ids)) == n
        for i in ids:
            assert self.counts[i] == 0
            self.counts[i] = 1
            self.content[i] = bytes([fill ^ i] * BYTES)
            self.pool.buffer(i)[:] = self.content[i]

    @rule(ids=ids_strategy)
    def share(self, ids: list[int]) -> None:
        if not self.held(ids):
            with pytest.raises(ValueError):
                self.pool.share(ids)
            return
        self.pool.share(ids)
        for i in ids:
            self.counts[i] += 1

    @rule(ids=ids_strategy)
    def free(self, ids: list[int]) -> None:
        if not self.held(ids) or any(ids.count(i) > self.counts[i] for i in ids):
            with pytest.raises(ValueError):
                self.pool.free(ids)
            return
        self.pool.free(ids)
        for i in ids:
            self.counts[i] -= 1

    @invariant()
    def agrees(self) -> None:
        self.pool.check_integrity()
        assert self.pool.free_blocks == self.counts.count(0)
        assert [self.pool.refcount(i) for i in range(BLOCKS)] == self.counts
        for i, count in enumerate(self.counts):
            if count:
                assert bytes(self.pool.buffer(i)) == self.content[i]
            else:
                with pytest.raises(ValueError):
                    self.pool.view(i)

    def teardown(self) -> None:
        self.pool.free([i for i, n in enumerate(self.counts) for _ in range(n)])
        self.pool.check_integrity()
        assert self.pool.free_blocks == BLOCKS


PoolMachine.TestCase.settings = settings(
    derandomize=True, deadline=None, max_examples=100, stateful_step_count=30
)
TestPool = PoolMachine.TestCase


def test_view_and_buffer_are_the_same_memory() -> None:
    pool = BlockPool(3, 4)
    first, second = pool.allocate(2)
    pool.view(first).fill_(7)
    pool.view(second).fill_(8)
    assert bytes(pool.buffer(first)) == b"\x07" * 4
    pool.buffer(first)[1] = 9
    assert torch.equal(pool.view(first), torch.tensor([7, 9, 7, 7], dtype=torch.uint8))
    assert pool.memory.is_contiguous()
    assert pool.view(second).data_ptr() - pool.memory.data_ptr() == 4 * second


def test_a_pool_over_given_memory_is_that_memory() -> None:
    given = bytearray(14)
    pool = BlockPool(3, 4, memoryview(given)[1:13])
    first, second = pool.allocate(2)
    pool.view(first).fill_(7)
    pool.buffer(second)[:] = b"abcd"
    assert (first, second) == (0, 1)
    assert given == b"\0" + b"\7" * 4 + b"abcd" + bytes(5)


@pytest.mark.parametrize(
    "memory",
    [
        memoryview(bytes(12)),
        memoryview(bytearray(13)),
        memoryview(bytearray(24))[::2],
    ],
    ids=["read-only", "larger", "scattered"],
)
def test_memory_that_cannot_be_a_pool_is_refused(memory: memoryview) -> None:
    with pytest.raises(ValueError, match="3 blocks of 4 bytes need 12 writable"):
        BlockPool(3, 4, memory)


def test_digest_follows_the_bytes() -> None:
    pool = BlockPool(2, 4)
    (block,) = pool.allocate(1)
    pool.buffer(block)[:] = b"abcd"
    assert pool.digest(block) == xxhash.xxh3_128(b"abcd").digest()
    pool.buffer(block)[3] ^= 1
    assert pool.digest(block) == xxhash.xxh3_128(b"abce").digest()


def test_capacity_error_names_numbers_and_remedy() -> None:
    pool = BlockPool(3, 4)
    pool.allocate(1)
    with pytest.raises(CapacityError, match=r"3 KV blocks wanted, 2 of 3 free.*evict"):
        pool.allocate(3)


@pytest.mark.parametrize("sizes", [(0, 1), (1, 0), (-1, 4)])
def test_empty_pool_is_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1 block"):
        BlockPool(*sizes)


@pytest.mark.parametrize(
    ("free", "refcounts", "message"),
    [
        ([1, 1], [1, 0], "more than once"),
        ([1], [-1, 0], "below 0"),
        ([1], [0, 0], "neither held nor free"),
        ([0, 1], [1, 0], "but held"),
    ],
)
def test_integrity_check_sees(
    free: list[int], refcounts: list[int], message: str
) -> None:
    pool = BlockPool(2, 1)
    pool._free, pool._refcounts = free, refcounts
    with pytest.raises(AssertionError, match=message):
        pool.check_integrity()
