"""The prefix store: bounded, least recently used first, nothing left behind."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError

from prefillshare.training import prefixes
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


@pytest.mark.parametrize(
    "failure", [SafetensorError("I/O error: no space"), OSError(28, "no space")]
)
def test_a_disk_that_is_full_stores_nothing_and_is_reported_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failure: Exception,
) -> None:
    def full(_: object, path: Path) -> None:
        path.write_text("half")
        raise failure

    monkeypatch.setattr(prefixes, "save_file", full)
    store = PrefixStore(0, 1 << 20, tmp_path)
    with caplog.at_level(logging.WARNING):
        assert [ask(store, key) for key in (1, 2, 1)] == [True] * 3
    assert list(tmp_path.rglob("*.safetensors")) == []
    assert store.used_disk == 0
    (record,) = caplog.records
    assert "no space" in record.getMessage()
    monkeypatch.undo()
    assert [ask(store, 1), ask(store, 1)] == [True, False]


def test_what_comes_from_disk_lies_where_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The device `meta` is everywhere, but its tensors have no bytes to write."""
    monkeypatch.setattr(prefixes, "save_file", lambda *_: None)
    monkeypatch.setattr(
        prefixes, "load_file", lambda _: {n: torch.zeros(2) for n in ("k0", "v0")}
    )
    store = PrefixStore(0, 1 << 20)
    there = torch.zeros(2, device="meta")
    for _ in range(2):
        found = store.get((1,), lambda: ((there, there),))
        assert [tensor.device.type for tensor in found[0]] == ["meta"] * 2
    assert (store.hits, store.misses) == (1, 1)
    store.close()
