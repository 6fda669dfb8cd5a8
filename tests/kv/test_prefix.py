from __future__ import annotations

import hashlib
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from prefillshare.kv.blocks import BlockPool
from prefillshare.kv.prefix import Match, PrefixIndex

BLOCKS = 14
BLOCK_TOKENS = 2
Prefix = tuple[bytes, tuple[int, ...]]
roots = st.sampled_from([b"tenant a", b"tenant b"])
# Mostly one token value, so that prompts often share long prefixes.
prompts = st.lists(st.sampled_from([0, 0, 0, 1]), max_size=9)


@dataclass
class Cached:
    block: int
    used: int


class IndexMachine(RuleBasedStateMachine):
    """The index against a table of whole prefixes, searched by brute force."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(BLOCKS, 1)
        self.index = PrefixIndex(self.pool, BLOCK_TOKENS)
        self.cached: dict[Prefix, Cached] = {}
        self.leases: list[list[int]] = []
        self.clock = 0
        self.queried = self.hit = 0

    def prefixes(self, root: bytes, prompt: list[int]) -> list[Prefix]:
        ends = range(BLOCK_TOKENS, len(prompt) + 1, BLOCK_TOKENS)
        return [(root, tuple(prompt[:end])) for end in ends]

    def checked_match(self, root: bytes, prompt: list[int]) -> list[int]:
        expected: list[Cached] = []
        for prefix in self.prefixes(root, prompt):
            if prefix not in self.cached:
                break
            expected.append(self.cached[prefix])
        match = self.index.match(root, prompt)
        blocks = [c.block for c in expected]
        assert match == Match(blocks, len(blocks) * BLOCK_TOKENS)
        self.clock += 1
        for c in expected:
            c.used = self.clock
        self.queried += len(prompt)
        self.hit += match.tokens
        return match.blocks

    def insert_and_hold(
        self, root: bytes, prompt: list[int], blocks: list[int]
    ) -> None:
        self.index.insert(root, prompt, blocks)
        self.clock += 1
        # `blocks` may go on with one for the tokens that do not fill a block.
        for prefix, block in zip(self.prefixes(root, prompt), blocks, strict=False):
            self.cached.setdefault(prefix, Cached(block, 0)).used = self.clock
        self.leases.append(blocks)

    @rule(root=roots, prompt=prompts)
    def match(self, root: bytes, prompt: list[int]) -> None:
        self.leases.append(self.checked_match(root, prompt))

    @rule(root=roots, prompt=prompts)
    def prefill(self, root: bytes, prompt: list[int]) -> None:
        blocks = self.checked_match(root, prompt)
        missing = -(-len(prompt) // BLOCK_TOKENS) - len(blocks)
        if self.pool.can_allocate(missing):
            blocks += self.pool.allocate(missing)
            self.insert_and_hold(root, prompt, blocks)
        else:
            self.leases.append(blocks)

    @rule(root=roots, prompt=prompts)
    def insert_without_match(self, root: bytes, prompt: list[int]) -> None:
        full = len(prompt) // BLOCK_TOKENS
        if self.pool.can_allocate(full):
            self.insert_and_hold(root, prompt, self.pool.allocate(full))

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        which = data.draw(st.integers(0, len(self.leases) - 1))
        self.pool.free(self.leases.pop(which))

    @rule()
    def release_all(self) -> None:
        for lease in self.leases:
            self.pool.free(lease)
        self.leases.clear()

    @rule(n=st.integers(0, 5))
    def evict(self, n: int) -> None:
        before = self.pool.free_blocks
        held = {block for lease in self.leases for block in lease}
        dropped = 0
        while dropped < n:
            leaves = [
                (c.used, -len(tokens), (root, tokens))
                for (root, tokens), c in self.cached.items()
                if c.block not in held
                and not any(
                    r == root and len(t) > len(tokens) and t[: len(tokens)] == tokens
                    for r, t in self.cached
                )
            ]
            if not leaves:
                break
            del self.cached[min(leaves)[2]]
            dropped += 1
        assert self.index.evict(n) == dropped == self.pool.free_blocks - before

    @invariant()
    def agrees(self) -> None:
        self.pool.check_integrity()
        self.index.check_integrity()
        assert len(self.index) == len(self.cached)
        holders = [0] * BLOCKS
        for c in self.cached.values():
            holders[c.block] += 1
        for lease in self.leases:
            for block in lease:
                holders[block] += 1
        # Exact counts mean: the right entries survived, and none that is leased went.
        assert [self.pool.refcount(i) for i in range(BLOCKS)] == holders
        assert self.index.queried_tokens == self.queried
        assert self.index.hit_tokens == self.hit

    def teardown(self) -> None:
        self.release_all()
        assert self.index.evict(BLOCKS) == len(self.cached)
        assert len(self.index) == 0
        assert self.pool.free_blocks == BLOCKS
        self.index.check_integrity()
        self.pool.check_integrity()


IndexMachine.TestCase.settings = settings(
    derandomize=True, deadline=None, max_examples=150, stateful_step_count=40
)
TestIndex = IndexMachine.TestCase


@pytest.fixture
def index() -> PrefixIndex:
    return PrefixIndex(BlockPool(8, 1), BLOCK_TOKENS)


def test_keys_are_the_documented_chain(index: PrefixIndex) -> None:
    index.insert(b"root", [1, 2, 3, 2**32 - 1, 5], index.pool.allocate(2))
    first = hashlib.blake2b(
        b"root" + b"\1\0\0\0" + b"\2\0\0\0", digest_size=32
    ).digest()
    second = hashlib.blake2b(
        first + b"\3\0\0\0" + b"\xff\xff\xff\xff", digest_size=32
    ).digest()
    assert set(index._entries) == {first, second}


def test_roots_are_apart(index: PrefixIndex) -> None:
    index.insert(b"a", [1, 2], index.pool.allocate(1))
    assert index.match(b"b", [1, 2]) == Match([], 0)


def test_least_recently_matched_goes_first(index: PrefixIndex) -> None:
    old, new = index.pool.allocate(2)
    index.insert(b"r", [1, 1], [old])
    index.insert(b"r", [2, 2], [new])
    index.pool.free([old, new, *index.match(b"r", [1, 1]).blocks])
    assert index.evict(1) == 1
    assert index.pool.refcount(old) == 1
    assert index.pool.refcount(new) == 0


def test_refused_insert_changes_nothing(index: PrefixIndex) -> None:
    pool = index.pool
    a, b, c = pool.allocate(3)
    index.insert(b"r", [1, 1], [a])
    pool.free([c])
    refused: list[tuple[list[int], list[int], str]] = [
        ([2, 2, 3, 3], [b], "only 1 blocks"),
        ([2, 2, 3, 3], [b, b], "1 are repetitions"),
        ([2, 2, 3, 3], [b, a], "one prefix only"),
        ([2, 2, 3, 3], [b, c], "is free"),
        ([2, 2, 3, 3], [b, 8], "no block 8"),
        ([2, 2, 3, -1], [b, a], "unsigned 32-bit"),
        ([2, 2, 3, 2**32], [b, a], "unsigned 32-bit"),
    ]
    for tokens, blocks, message in refused:
        with pytest.raises(ValueError, match=message):
            index.insert(b"r", tokens, blocks)
        index.check_integrity()
        assert len(index) == 1
        assert [pool.refcount(i) for i in (a, b, c)] == [2, 1, 0]


def test_bad_arguments_are_refused(index: PrefixIndex) -> None:
    with pytest.raises(ValueError, match="at least 1 token"):
        PrefixIndex(index.pool, 0)
    with pytest.raises(ValueError, match="cannot evict -1"):
        index.evict(-1)
    with pytest.raises(ValueError, match="unsigned 32-bit"):
        index.match(b"r", [-1, 0])
    assert index.queried_tokens == 0
