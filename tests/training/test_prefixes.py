"""The prefix store: bounded, least recently used first, nothing left behind."""

from __future__ import annotations

from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

from prefillshare.training.prefixes import PrefixStore
from prefillshare.training.rows import Layers


def layers_of(key: int) -> Layers:
    """One layer of four fp64 keys and values."""
    return ((torch.full((1, 1, 2, 2), key * 1.0), torch.full((1, 1, 2, 2), key + 0.5)),)


def ask(store: PrefixStore, key: int) -> bool:
    """Ask for `key`, check what comes, and say whether it was computed."""
    computed = []

    def compute() -> Layers:
        computed.append(key)
        return layers_of(key)

    (found,) = store.get((key,), compute)
    (expected,) = layers_of(key)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    return bool(computed)


@given(
    keys=st.lists(st.integers(0, 6), max_size=40),
    memory=st.integers(0, 4),
    disk=st.integers(0, 3),
)
def test_bounds_hold_and_what_is_found_is_right(
    keys: list[int], memory: int, disk: int
) -> None:
    size = 32
    store = PrefixStore(memory * size, disk * size)
    try:
        for key in keys:
            ask(store, key)
            assert store.used_memory <= memory * size
            assert store.used_disk <= disk * size
        assert store.hits + store.misses == len(keys)
    finally:
        store.close()


def test_the_least_recently_used_goes_to_disk_and_comes_back(tmp_path: Path) -> None:
    size = sum(t.numel() * t.element_size() for pair in layers_of(0) for t in pair)
    store = PrefixStore(2 * size, size, tmp_path)
    assert [ask(store, key) for key in (1, 2)] == [True, True]
    assert not ask(store, 1)
    assert ask(store, 3)  # 2 goes to disk
    assert [not ask(store, key) for key in (1, 3, 2)] == [True] * 3
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    store.close()
    assert list(tmp_path.iterdir()) == []


def test_what_fits_nowhere_is_computed_each_time() -> None:
    store = PrefixStore(0)
    assert [ask(store, 1), ask(store, 1)] == [True, True]
