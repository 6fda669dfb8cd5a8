"""The checkpoint store against a table of whole prefixes, searched by brute force."""

from __future__ import annotations

import hashlib

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from prefillshare.kv.cache import KVCache
from prefillshare.kv.checkpoints import CheckpointStore
from prefillshare.kv.states import RecurrentState
from tests.architectures import assert_close, tensors

STATE_BYTES = 24
TOKEN_BYTES = 16
Prefix = tuple[bytes, tuple[int, ...]]
roots = st.sampled_from([b"tenant a", b"tenant b"])
# Mostly one token value, so that prompts often share long prefixes.
prompts = st.lists(st.sampled_from([0, 0, 0, 1]), min_size=1, max_size=9)


def cache_of(root: bytes, tokens: list[int]) -> KVCache:
    """A cache that gives away which prefix it belongs to.

    Token t leaves 8 bytes of keys and 8 of values, which depend on all tokens up to
    it; the state, 24 bytes, depends on all tokens.
    """
    marks = [
        int.from_bytes(hashlib.sha256(root + bytes(tokens[: i + 1])).digest()[:4])
        for i in range(len(tokens))
    ]
    keys = torch.tensor(marks, dtype=torch.float64)[None, :, None]
    state = torch.full((1, 3), float(marks[-1]), dtype=torch.float64)
    return KVCache(((keys, keys + 1),), (RecurrentState(0, state),))


def whole_bytes(tokens: int) -> int:
    return tokens * TOKEN_BYTES + STATE_BYTES


class StoreMachine(RuleBasedStateMachine):
    """Least recently used first; a hit is the longest of those that are left."""

    BUDGET = 3 * STATE_BYTES + 12 * TOKEN_BYTES

    def __init__(self) -> None:
        super().__init__()
        self.store = CheckpointStore(self.BUDGET)
        # Least recently used first.
        self.kept: list[Prefix] = []

    @rule(root=roots, tokens=prompts)
    def insert(self, root: bytes, tokens: list[int]) -> None:
        fits = whole_bytes(len(tokens)) <= self.BUDGET
        before = list(self.kept)
        assert self.store.insert(root, tokens, cache_of(root, tokens)) == fits
        if not fits:
            assert len(self.store) == len(before)
            return
        self.touch((root, tuple(tokens)))
        # It may have evicted, but only from the front, and only if it had to.
        evicted = len(self.kept) - len(self.store)
        assert 0 <= evicted < len(self.kept)
        if sum(whole_bytes(len(t)) for _, t in self.kept) <= self.BUDGET:
            assert evicted == 0
        del self.kept[:evicted]

    @rule(root=roots, tokens=prompts)
    def match(self, root: bytes, tokens: list[int]) -> None:
        hits = [
            (r, t) for r, t in self.kept if r == root and t == tuple(tokens[: len(t)])
        ]
        found = self.store.match(root, tokens)
        if not hits:
            assert found is None
            return
        longest = max(hits, key=lambda hit: len(hit[1]))
        assert found is not None
        assert_close(found, cache_of(root, list(longest[1])), band=0.0)
        self.touch(longest)

    def touch(self, prefix: Prefix) -> None:
        self.kept = [other for other in self.kept if other != prefix] + [prefix]

    @invariant()
    def agrees(self) -> None:
        self.store.check_integrity()
        assert self.store.nbytes <= self.BUDGET
        assert len(self.store) == len(self.kept)


TestStore = StoreMachine.TestCase
TestStore.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, derandomize=True
)

ROOT = b"root"
IDS = list(range(12))


def filled(budget: int, *lengths: int) -> CheckpointStore:
    store = CheckpointStore(budget)
    for length in lengths:
        assert store.insert(ROOT, IDS[:length], cache_of(ROOT, IDS[:length]))
    return store


def test_a_growing_conversation_stores_its_tokens_once() -> None:
    store = filled(10_000, 3, 6, 12)
    assert store.nbytes == 12 * TOKEN_BYTES + 3 * STATE_BYTES


def test_one_that_is_continued_loses_its_state_first() -> None:
    """Room for twelve tokens and one state: the earlier ones' tokens live on."""
    store = filled(whole_bytes(12), 3, 6, 12)
    assert store.nbytes == whole_bytes(12)
    assert store.match(ROOT, IDS[:11]) is None
    hit = store.match(ROOT, [*IDS, 99])
    assert hit is not None
    assert_close(hit, cache_of(ROOT, IDS), band=0.0)


def test_a_prefix_that_only_lives_on_can_become_a_checkpoint_again() -> None:
    store = filled(whole_bytes(12), 3, 12)
    assert store.match(ROOT, IDS[:5]) is None
    assert store.insert(ROOT, IDS[:3], cache_of(ROOT, IDS[:3]))
    hit = store.match(ROOT, IDS[:5])
    assert hit is not None and hit.tokens == 3
    store.check_integrity()


def test_what_is_too_large_evicts_nothing() -> None:
    store = filled(whole_bytes(6), 6)
    assert not store.insert(ROOT, IDS, cache_of(ROOT, IDS))
    hit = store.match(ROOT, IDS)
    assert hit is not None and hit.tokens == 6


def test_what_is_stored_is_a_copy_of_the_keys_and_values() -> None:
    cache = cache_of(ROOT, IDS)
    store = CheckpointStore(10_000)
    store.insert(ROOT, IDS, cache)
    before = [tensor.clone() for tensor in tensors(cache)]
    for layer in cache.layers:
        for tensor in layer:
            tensor.zero_()
    hit = store.match(ROOT, IDS)
    assert hit is not None
    torch.testing.assert_close(tensors(hit), before, rtol=0, atol=0)


def test_hits_are_counted_in_tokens() -> None:
    store = filled(10_000, 3)
    store.match(ROOT, IDS)
    store.match(b"another", IDS)
    assert (store.queried_tokens, store.hit_tokens) == (24, 3)


def test_a_cache_of_other_tokens_is_refused() -> None:
    store = CheckpointStore(10_000)
    with pytest.raises(ValueError, match="5 tokens.*cache of 12"):
        store.insert(ROOT, IDS[:5], cache_of(ROOT, IDS))
    with pytest.raises(ValueError, match="unsigned 32-bit"):
        store.match(ROOT, [-1])
    with pytest.raises(ValueError, match="negative.*-1 bytes"):
        CheckpointStore(-1)
    assert len(store) == 0
