"""Which bytes go where, and what a check finds."""

from __future__ import annotations

import numpy as np
import pytest

from prefillshare.bench.transfer import shapes
from prefillshare.bench.transfer.settings import TransferBenchSettings
from prefillshare.bench.transfer.shapes import (
    Memory,
    Noise,
    Plan,
    buffer,
    check,
    fill,
    plan,
)
from prefillshare.bench.transfer.specs import Shape

BLOCKS: tuple[Shape, ...] = ("scattered", "small", "grouped")


def moved(which: Plan, seed: int) -> Memory:
    """What a right transfer leaves."""
    source, target = buffer(which.size), buffer(which.size)
    fill(source, seed)
    for local, remote, length in which.batch().tolist():
        target[remote : remote + length] = source[local : local + length]
    return target


@pytest.fixture(autouse=True)
def chunks_of_five_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "_CHUNK", 5 << 12)


def test_blocks_are_permuted_at_both_ends(small: TransferBenchSettings) -> None:
    for shape in BLOCKS:
        which = plan(small, shape)
        assert len(set(which.sources)) == len(set(which.targets)) == which.count
        assert list(which.sources) != list(which.targets) != sorted(which.targets)
    assert plan(small, "scattered").payload == small.total_bytes
    assert plan(small, "small").payload == plan(small, "grouped").payload == 96 << 8
    assert plan(small, "contiguous").batch().tolist() == [[0, 0, 1 << 16]]


@pytest.mark.parametrize("shape", ["contiguous", *BLOCKS, "latency"])
def test_a_right_transfer_is_verified_and_a_wrong_byte_anywhere_is_not(
    small: TransferBenchSettings, shape: Shape
) -> None:
    which = plan(small, shape)
    memory = moved(which, seed=3)
    assert check(memory, which, seed=3)
    assert not check(memory, which, seed=4)
    for at in range(0, which.size, 61):
        memory[at] ^= 1
        assert not check(memory, which, seed=3)
        memory[at] ^= 1


def test_blocks_in_another_order_are_not_verified(small: TransferBenchSettings) -> None:
    which = plan(small, "scattered")
    blocks = moved(which, seed=3).reshape(-1, which.block)
    blocks[[0, 1]] = blocks[[1, 0]]
    assert not check(blocks.reshape(-1), which, seed=3)


def test_memory_is_aligned_to_pages_and_filled_by_seed() -> None:
    memory = buffer(1 << 15)
    assert memory.ctypes.data % 4096 == 0 and not memory.any()
    fill(memory, 1)
    again = buffer(1 << 15)
    fill(again, 1)
    assert np.array_equal(memory, again)


def test_bytes_of_a_seed_are_the_same_from_any_place_and_differ_everywhere() -> None:
    """Over several chunks of five pages."""
    whole = Noise(1).take(0, 1 << 16)
    assert np.array_equal(
        Noise(1).take(8 * 3001, 8 * 997), whole[8 * 3001 :][: 8 * 997]
    )
    words = whole.view(np.uint64)
    assert len(set(words.tolist())) == len(words)
    assert not set(words.tolist()) & set(Noise(2).take(0, 1 << 16).view(np.uint64))
