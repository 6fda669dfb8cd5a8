"""What is measured without a peer: the cipher, shared memory, files, agents."""

from __future__ import annotations

import os

import numpy as np
import pytest

from prefillshare.bench.transfer import usage
from prefillshare.bench.transfer.agents import agents_memory
from prefillshare.bench.transfer.attention import HEAD_DIM, Query, digest_of, keys_into
from prefillshare.bench.transfer.checksum import run_checksum
from prefillshare.bench.transfer.cipher import run_cipher
from prefillshare.bench.transfer.copying import run_copying
from prefillshare.bench.transfer.handover import run_handover
from prefillshare.bench.transfer.settings import MemorySettings, TransferBenchSettings
from prefillshare.bench.transfer.shapes import buffer
from prefillshare.bench.transfer.specs import Checksum, Cipher, Ours
from prefillshare.transfer.arena import Arena, Window

ARENA = 16 << 20
SMALL = TransferBenchSettings(
    total_bytes=16 << 20,
    small_blocks=16,
    memory=MemorySettings(total_bytes=3 * ARENA, arena_bytes=ARENA),
    timeout_seconds=60,
)


def test_a_cipher_seals_and_opens_all_slices() -> None:
    sealed, opened = run_cipher(SMALL, Cipher(name="x", slice_bytes=1 << 16), 0)
    assert (sealed.direction, opened.direction) == ("write", "read")
    assert sealed.verified and opened.verified
    assert all(one.gbps and one.cpu_seconds_per_gb for one in (sealed, opened))


def test_a_checksum_reads_all_slices() -> None:
    (read,) = run_checksum(SMALL, Checksum(name="x", slice_bytes=1 << 16), 0)
    assert read.verified and read.gbps and read.cpu_seconds_per_gb


def test_blocks_are_handed_over_without_a_copy() -> None:
    first, whole = run_handover(SMALL, 0)
    assert first.verified and whole.verified
    parts = list(whole.stages_us.values())
    assert whole.p50_us == pytest.approx(sum(parts[:-1]))
    assert first.p50_us == pytest.approx(sum(parts[:-2]))
    assert whole.extra_bytes is not None
    assert 0 < whole.extra_bytes < SMALL.total_bytes / 4


def test_the_copy_beside_it_has_all_bytes() -> None:
    first, whole = run_copying(SMALL, 0)
    assert first.verified and whole.verified
    assert first.p50_us is not None and whole.p50_us is not None
    assert first.stages_us["copied, to fresh memory"] < first.p50_us < whole.p50_us


def test_a_query_scores_the_keys_where_they_lie() -> None:
    blocks = buffer(4 << 10).reshape(2, -1)
    source = np.arange(4 * HEAD_DIM, dtype=np.float32)
    for number, block in enumerate(blocks):
        keys_into(block, number, source)
    query = Query(tokens=8)
    views = [block.data for block in blocks]
    first, last = query.read(views)
    assert first <= last
    means = source.reshape(4, HEAD_DIM).mean(axis=1)
    assert query.scores.tolist() == pytest.approx([*means, *(2 * means)])
    assert digest_of(views) != digest_of(views[::-1])


def test_private_memory_grows_by_what_is_copied_and_not_by_what_is_mapped() -> None:
    size = 32 << 20
    arena = Arena(size)
    np.frombuffer(arena.view, np.uint8)[:] = 1
    before = usage.own_memory()
    usage.reset_peak(os.getpid())
    window = Window(arena.descriptor, 0, size)
    assert np.frombuffer(window.view, np.uint8).sum() == size
    mapped = usage.private_growth(before)
    copy = bytes(window.view)
    assert usage.private_growth(before) - mapped > size / 2
    del copy
    # The copy is gone, and had been there.
    assert usage.private_growth(before) - mapped > size / 2
    assert mapped < size / 2
    window.close()
    arena.close()


@pytest.mark.parametrize("encrypted", [False, True])
def test_agents_have_their_arena_and_little_more(encrypted: bool) -> None:
    """As many agents as ends, each with all of its arena in memory, once."""
    spec = Ours(name="x", agent=True, encrypted=encrypted, streams=2)
    receiving, sending = agents_memory(SMALL, spec, 0)
    assert (receiving.case, sending.case) == ("receiving agent", "sending agent")
    for found in (receiving, sending):
        assert found.verified and found.gbps
        # Of 16 MiB, each of two streams gets four slices of 2 MiB.
        assert found.limits["extra_bytes"] == ARENA + 2 * ((2 << 20) + 4096)
        assert found.extra_bytes is not None
        assert 0.9 * ARENA < found.extra_bytes < 1.9 * ARENA
