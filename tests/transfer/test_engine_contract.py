"""What every transport promises of a transfer."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import numpy as np
import pytest

from prefillshare.errors import (
    TransferBroken,
    TransferClosed,
    TransferEnded,
    TransferError,
    TransferIdentityError,
    TransferTimeout,
)
from prefillshare.transfer.base import (
    MAX_NOTE_BYTES,
    Batch,
    GrantEnd,
    Outcome,
    Transfer,
)
from tests.transfer.pairs import SECONDS, Bytes, Pair, noise, until


def rows(*several: tuple[int, int, int]) -> Batch:
    return np.array(several, np.int64)


def arrived(transfer: Transfer, count: int) -> None:
    """Wait until all of the bytes that were added have moved."""
    until(lambda: transfer.progress == (count, count))


def odd_batch(count: int, size: int) -> Batch:
    """Rows of 1..99 bytes, in another order on each side, with and without gaps."""
    rng = np.random.default_rng(7)
    lengths = rng.integers(1, 100, count)
    sides = []
    for _ in range(2):
        order = rng.permutation(count)
        gaps = rng.integers(0, 2, count) * rng.integers(0, 9, count)
        starts = np.empty(count, np.int64)
        starts[order] = np.cumsum(lengths[order] + gaps) - lengths[order]
        sides.append(starts)
    batch = np.column_stack([*sides, lengths])
    assert (batch[:, :2].max(axis=0) + 100 < size).all()
    return batch


def moved(source: Bytes, target: Bytes, pairs: Batch) -> Bytes:
    """A copy of `target` with rows (from, to, length) copied one by one."""
    result = target.copy()
    for begin, to, length in pairs.tolist():
        result[to : to + length] = source[begin : begin + length]
    return result


def test_ten_thousand_odd_ranges_are_read(pair: Pair) -> None:
    data = noise(1 << 20)
    region = pair.make(data)
    # The grant is in two pieces, the second before the first.
    half = len(data) // 2
    grant = pair.grant(region, [[half, half], [0, half]])
    lent = np.concatenate([data[half:], data[:half]])
    memory, into = pair.target(len(data))
    batch = odd_batch(10_000, len(data))
    expected = moved(lent, memory, batch[:, [1, 0, 2]])
    transfer = pair.link.read(grant, into, batch, timeout=SECONDS, note=b"thanks")
    stats = transfer.wait()
    total = int(batch[:, 2].sum())
    assert (memory == expected).all()
    assert (stats.bytes, stats.ranges) == (total, 10_000)
    assert transfer.done and transfer.progress == (total, total)
    assert pair.ends.one() == GrantEnd(Outcome.DONE, b"thanks", total)


def test_ten_thousand_odd_ranges_are_written(pair: Pair) -> None:
    before, data = noise(1 << 20, 1), noise(1 << 20, 2)
    region = pair.make(before)
    half = len(data) // 2
    grant = pair.grant(region, [[half, half], [0, half]], "write")
    source = pair.near(data)
    batch = odd_batch(10_000, len(data))
    lent = np.concatenate([before[half:], before[:half]])
    expected = moved(data, lent, batch)
    stats = pair.link.write(grant, source, batch, timeout=SECONDS).wait()
    found = pair.held(region)
    assert (np.concatenate([found[half:], found[:half]]) == expected).all()
    assert stats.bytes == batch[:, 2].sum()
    assert pair.ends.one() == GrantEnd(Outcome.DONE, b"", stats.bytes)


def test_neighbours_across_a_grants_pieces_arrive_in_order(pair: Pair) -> None:
    data = noise(1000)
    grant = pair.grant(pair.make(data), [[900, 100], [0, 50], [50, 50], [500, 1]])
    lent = np.concatenate([data[900:], data[:100], data[500:501]])
    memory, into = pair.target(300)
    batch = rows((0, 0, 60), (60, 60, 60), (120, 120, 81), (210, 3, 5))
    pair.link.read(grant, into, batch, timeout=SECONDS).wait()
    assert (memory[:201] == lent).all() and (memory[210:215] == lent[3:8]).all()
    assert not memory[201:210].any() and not memory[215:].any()


def test_a_transfer_of_nothing_is_a_mistake(pair: Pair) -> None:
    grant = pair.grant(pair.make(noise(10)), [[0, 10]])
    transfer = pair.link.read(grant, pair.target(10)[1], timeout=SECONDS)
    with pytest.raises(ValueError, match="nothing"):
        transfer.finish()
    with pytest.raises(TransferClosed):
        transfer.wait()


def test_one_that_is_cancelled_is_over_and_the_grant_can_be_used(pair: Pair) -> None:
    data = noise(1000)
    grant = pair.grant(pair.make(data), [[0, 1000]])
    memory, into = pair.target(1000)
    transfer = pair.link.read(grant, into, timeout=SECONDS)
    transfer.add(rows((0, 0, 10)))
    transfer.cancel()
    transfer.cancel()
    with pytest.raises(TransferClosed, match="cancel"):
        transfer.wait()
    assert transfer.done
    with pytest.raises(TransferError):
        transfer.add(rows((10, 10, 10)))
    whole = rows((0, 0, 1000))
    assert pair.link.read(grant, into, whole, timeout=SECONDS).wait().bytes == 1000
    assert (memory == data).all()
    assert pair.ends.one().outcome is Outcome.DONE
    # After the end, it is a no-op.
    transfer.cancel()


def test_its_time_is_over_whether_or_not_anybody_waits(pair: Pair) -> None:
    grant = pair.grant(pair.make(noise(100)), [[0, 100]])
    transfer = pair.link.read(grant, pair.target(100)[1], timeout=0.05)
    over = threading.Event()
    transfer.add_done_callback(over.set)
    assert over.wait(SECONDS)
    with pytest.raises(TransferTimeout, match=r"0\.05 s"):
        transfer.wait()
    assert not pair.ends.told


def test_a_wait_that_is_too_short_cancels(pair: Pair) -> None:
    data = noise(100)
    grant = pair.grant(pair.make(data), [[0, 100]])
    memory, into = pair.target(100)
    transfer = pair.link.read(grant, into, timeout=SECONDS)
    with pytest.raises(TransferTimeout, match=r"0\.02 s"):
        transfer.wait(0.02)
    assert transfer.done
    pair.link.read(grant, into, rows((0, 0, 100)), timeout=SECONDS).wait()
    assert (memory == data).all()


def test_a_later_transfer_ends_an_earlier_one(pair: Pair) -> None:
    data = noise(100)
    grant = pair.grant(pair.make(data), [[0, 100]])
    first = pair.link.read(grant, pair.target(100)[1], timeout=SECONDS, note=b"1")
    first.add(rows((0, 0, 10)))
    arrived(first, 10)
    memory, into = pair.target(100)
    whole = rows((0, 0, 100))
    pair.link.read(grant, into, whole, timeout=SECONDS, note=b"2").wait()
    with pytest.raises(TransferEnded):
        first.wait(SECONDS)
    assert (memory == data).all()
    assert pair.ends.one() == GrantEnd(Outcome.DONE, b"2", 100)


def test_an_earlier_writer_changes_nothing_that_a_later_one_wrote(pair: Pair) -> None:
    region = pair.make(noise(50_000))
    grant = pair.grant(region, [[0, 50_000]], "write")
    data = noise(50_000, 2)
    first = pair.link.write(
        grant, pair.near(data ^ np.uint8(1)), timeout=SECONDS, note=b"1"
    )
    first.add(rows((0, 0, 20_000)))
    until(lambda: bool((pair.held(region)[:20_000] == data[:20_000] ^ 1).all()))
    whole = rows((0, 0, 50_000))
    pair.link.write(grant, pair.near(data), whole, timeout=SECONDS, note=b"2").wait()
    with pytest.raises(TransferEnded):
        first.wait(SECONDS)
    assert (pair.held(region) == data).all()
    assert pair.ends.one() == GrantEnd(Outcome.DONE, b"2", 50_000)


def test_an_event_loop_waits_for_many(pair: Pair) -> None:
    async def both() -> list[int]:
        several = []
        for seed in range(2):
            grant = pair.grant(pair.make(noise(5000, seed)), [[0, 5000]])
            into = pair.target(5000)[1]
            batch = rows((0, 0, 5000))
            several.append(pair.link.read(grant, into, batch, timeout=SECONDS))
        return [(await each).bytes for each in several]

    assert asyncio.run(both()) == [5000, 5000]


def test_a_task_that_is_cancelled_cancels(pair: Pair) -> None:
    grant = pair.grant(pair.make(noise(10)), [[0, 10]])
    transfer = pair.link.read(grant, pair.target(10)[1], timeout=SECONDS)

    async def impatient() -> None:
        async with asyncio.timeout(0.02):
            await transfer

    with pytest.raises(TimeoutError):
        asyncio.run(impatient())
    assert transfer.done
    with pytest.raises(TransferClosed):
        transfer.wait()


def test_callbacks_come_once_it_is_over(pair: Pair) -> None:
    grant = pair.grant(pair.make(noise(10)), [[0, 10]])
    transfer = pair.link.read(grant, pair.target(10)[1], timeout=SECONDS)
    seen: list[tuple[bool, threading.Thread]] = []
    called = threading.Event()

    def call() -> None:
        seen.append((transfer.done, threading.current_thread()))
        called.set()

    transfer.add_done_callback(call)
    assert not seen
    transfer.add(rows((0, 0, 10)))
    transfer.finish()
    transfer.wait()
    assert called.wait(SECONDS)
    assert seen[0][0] and seen[0][1] is not threading.current_thread()
    transfer.add_done_callback(call)
    assert len(seen) == 2


def test_wrong_arguments_are_told_at_once(pair: Pair) -> None:
    grant = pair.grant(pair.make(noise(10)), [[0, 10]])
    into = pair.target(10)[1]
    whole, link = rows((0, 0, 10)), pair.link
    with pytest.raises(ValueError, match="note"):
        link.read(grant, into, whole, timeout=1, note=bytes(MAX_NOTE_BYTES + 1))
    with pytest.raises(ValueError, match="timeout"):
        link.read(grant, into, whole, timeout=0)
    with pytest.raises(ValueError, match="timeout"):
        link.read(grant, into, whole, timeout=float("inf"))
    with pytest.raises(ValueError, match="for read"):
        link.write(grant, into, whole, timeout=1)
    with pytest.raises(TransferIdentityError, match="0000"):
        link.read(replace(grant, engine="0" * 32), into, whole, timeout=1)
    pair.mover.deregister(into)
    with pytest.raises(ValueError, match="registered"):
        link.read(grant, into, whole, timeout=1)
    with pytest.raises(ValueError, match="address"):
        pair.mover.connect("nowhere")
    assert not pair.ends.told


def test_a_lender_that_is_gone_cannot_be_reached(pair: Pair) -> None:
    grant = pair.grant(pair.make(noise(10)), [[0, 10]])
    into = pair.target(10)[1]
    pair.lender.close()
    pair.leave()
    # It may begin while the lender's farewell is on its way.
    with pytest.raises((TransferBroken, TransferEnded)):
        pair.link.read(grant, into, rows((0, 0, 10)), timeout=SECONDS).wait()
    with pytest.raises(TransferBroken):
        pair.mover.connect(pair.lender.address, timeout=1)
