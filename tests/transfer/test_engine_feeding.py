"""What every transport promises of a transfer that is fed while it runs."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from prefillshare.errors import TransferError
from prefillshare.transfer.base import Batch, Transfer
from tests.transfer.pairs import SECONDS, Pair, noise, until


def row(first: int, size: int) -> Batch:
    """So many bytes, at one offset on both sides."""
    return np.array([[first, first, size]], np.int64)


def arrived(transfer: Transfer, count: int) -> None:
    """Wait until all of the bytes that were added have moved."""
    until(lambda: transfer.progress == (count, count))


@pytest.mark.parametrize("access", ["read", "write"])
def test_it_is_fed_while_it_runs(pair: Pair, access: str) -> None:
    data, other = noise(30_000, 1), noise(30_000, 2)
    region = pair.make(data)
    near = pair.near(other)
    if access == "read":
        grant = pair.grant(region, [[0, 30_000]])
        transfer = pair.link.read(grant, near, timeout=SECONDS)
    else:
        grant = pair.grant(region, [[0, 30_000]], "write")
        transfer = pair.link.write(grant, near, timeout=SECONDS)
    for first in range(0, 30_000, 10_000):
        batch = row(first, 10_000)
        transfer.add(batch)
        batch[:] = 0
        arrived(transfer, first + 10_000)
        assert not transfer.done and not pair.ends.told
    transfer.finish()
    transfer.finish()
    assert transfer.wait().bytes == 30_000
    assert (pair.held(region) == (data if access == "read" else other)).all()
    assert (pair.held(region) == np.frombuffer(near.memory, np.uint8)).all()
    with pytest.raises(TransferError):
        transfer.add(row(0, 1))
    assert pair.ends.one().bytes == 30_000


@pytest.mark.parametrize("access", ["read", "write"])
def test_threads_feed_one_transfer_together(pair: Pair, access: str) -> None:
    count, size, rounds = 6, 3000, 12
    data, other = noise(count * rounds * size, 1), noise(count * rounds * size, 2)
    region, near = pair.make(data), pair.near(other)
    whole = [[0, len(data)]]
    if access == "read":
        transfer = pair.link.read(pair.grant(region, whole), near, timeout=SECONDS)
    else:
        grant = pair.grant(region, whole, "write")
        transfer = pair.link.write(grant, near, timeout=SECONDS)
    begin = threading.Barrier(count)

    def feed(share: int) -> None:
        begin.wait(SECONDS)
        for turn in range(rounds):
            first = (turn * count + share) * size
            transfer.add(row(first, size))

    threads = [threading.Thread(target=feed, args=(each,)) for each in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    transfer.finish()
    assert transfer.wait(SECONDS).bytes == len(data)
    assert (pair.held(region) == (data if access == "read" else other)).all()
    assert (pair.held(region) == np.frombuffer(near.memory, np.uint8)).all()
