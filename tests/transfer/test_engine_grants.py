"""What every transport promises of a grant: who may use it, for what, and its end."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

from prefillshare.errors import (
    TransferBroken,
    TransferClosed,
    TransferEnded,
    TransferError,
    TransferRefused,
)
from prefillshare.transfer.base import Batch, Grant, GrantEnd, Outcome
from tests.transfer.pairs import LONG, SECONDS, Pair, at_once, noise, until

WHOLE: Batch = np.array([[0, 0, 100]], np.int64)
HALF: Batch = np.array([[0, 0, 50]], np.int64)


def read(pair: Pair, grant: Grant, batch: Batch = WHOLE) -> bytes:
    """What a read of the grant finds in 200 bytes that were zeros."""
    memory, into = pair.target(200)
    pair.link.read(grant, into, batch, timeout=SECONDS).wait()
    return memory.tobytes()


def refusal(pair: Pair, grant: Grant) -> str:
    """The text with which a read is refused; it must leave the target as it was."""
    memory, into = pair.target(200)
    with pytest.raises(TransferRefused) as refused:
        pair.link.read(grant, into, WHOLE, timeout=SECONDS).wait()
    assert not memory.any()
    return str(refused.value)


def test_a_stranger_learns_nothing_and_the_owner_is_still_served(pair: Pair) -> None:
    data = noise(100)
    grant = pair.grant(pair.make(data), [[0, 100]])
    texts = {
        refusal(pair, replace(grant, capability="0" * 64)),
        refusal(pair, replace(grant, grant_id="0" * 32)),
    }
    assert not pair.ends.told
    assert read(pair, grant)[:100] == data.tobytes()
    texts.add(refusal(pair, grant))
    texts.add(refusal(pair, replace(grant, capability="0" * 64)))
    assert len(texts) == 1
    assert pair.ends.one().outcome is Outcome.DONE


def test_an_expired_grant_is_over(pair: Pair) -> None:
    grant = pair.grant(pair.make(noise(100)), [[0, 100]])
    pair.expire()
    assert pair.ends.one() == GrantEnd(Outcome.EXPIRED)
    refusal(pair, grant)


def test_a_lease_ends_what_is_under_way(pair: Pair) -> None:
    grant = pair.grant(pair.make(noise(100)), [[0, 100]])
    transfer = pair.link.read(grant, pair.target(100)[1], timeout=LONG)
    transfer.add(HALF)
    until(lambda: transfer.progress[0] == 50)
    with at_once():
        pair.expire()
        with pytest.raises(TransferEnded):
            transfer.wait(LONG)
        assert pair.ends.one() == GrantEnd(Outcome.EXPIRED)


@pytest.mark.parametrize("access", ["read", "write"])
def test_revoking_ends_what_is_under_way(pair: Pair, access: str) -> None:
    region, near = pair.make(noise(100)), pair.target(100)[1]
    if access == "read":
        grant = pair.grant(region, [[0, 100]])
        transfer = pair.link.read(grant, near, timeout=LONG)
    else:
        grant = pair.grant(region, [[0, 100]], "write")
        transfer = pair.link.write(grant, near, timeout=LONG)
    transfer.add(HALF)
    if access == "read":
        until(lambda: transfer.progress[0] == 50)
    else:
        until(lambda: not pair.held(region)[:50].any())
    with at_once():
        pair.lender.revoke(grant.grant_id)
        with pytest.raises(TransferEnded):
            transfer.wait(LONG)
        assert pair.ends.one() == GrantEnd(Outcome.REVOKED)
    pair.lender.revoke(grant.grant_id)
    pair.lender.revoke("0" * 32)
    with pytest.raises(ValueError, match="hex"):
        pair.lender.revoke("no")
    assert pair.ends.one() == GrantEnd(Outcome.REVOKED)


def test_deregistering_ends_grants_first(pair: Pair) -> None:
    region, other = pair.make(noise(100)), pair.make(noise(100))
    grant = pair.grant(region, [[0, 100]])
    kept = pair.lender.grant(other, np.array([[0, 100]]), "read", lambda _: None)
    with at_once():
        pair.lender.deregister(region)
    assert pair.ends.told == [GrantEnd(Outcome.REVOKED)]
    refusal(pair, grant)
    with pytest.raises(ValueError, match="registered"):
        pair.grant(region, [[0, 100]])
    read(pair, kept)


def test_the_owner_is_told_on_a_thread_of_the_engine(pair: Pair) -> None:
    region = pair.make(noise(100))
    read(pair, pair.grant(region, [[0, 100]]))
    pair.ends.one()
    pair.lender.revoke(pair.grant(region, [[0, 100]]).grant_id)
    until(lambda: len(pair.ends.told) == 2)
    assert threading.current_thread() not in pair.ends.threads


def test_an_owner_that_fails_is_logged_and_harms_nobody(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: GrantEnd) -> None:
        raise RuntimeError("of the owner")

    region = pair.make(noise(100))
    grant = pair.lender.grant(region, np.array([[0, 100]]), "read", fail)
    read(pair, grant)
    until(lambda: "of the owner" in caplog.text)
    read(pair, pair.grant(region, [[0, 100]]))
    assert pair.ends.one().outcome is Outcome.DONE


def test_the_mover_may_close(pair: Pair) -> None:
    data = noise(100)
    grant = pair.grant(pair.make(data), [[0, 100]])
    transfer = pair.link.read(grant, pair.target(100)[1], timeout=SECONDS)
    transfer.add(HALF)
    pair.link.close()
    pair.link.close()
    with pytest.raises(TransferClosed):
        transfer.wait()
    with pytest.raises(TransferClosed):
        pair.link.read(grant, pair.target(100)[1], WHOLE, timeout=SECONDS)
    pair.link = pair.mover.connect(pair.lender.address)
    assert read(pair, grant)[:100] == data.tobytes()
    pair.mover.close()
    with pytest.raises(TransferClosed):
        pair.mover.register(memoryview(bytearray(9)))


def test_the_lender_may_close(pair: Pair) -> None:
    region = pair.make(noise(100))
    grant = pair.grant(region, [[0, 100]])
    transfer = pair.link.read(grant, pair.target(100)[1], timeout=LONG)
    transfer.add(HALF)
    until(lambda: transfer.progress[0] == 50)
    with at_once():
        pair.lender.close()
        assert pair.ends.told == [GrantEnd(Outcome.CLOSED)]
        with pytest.raises((TransferEnded, TransferBroken)):
            transfer.wait(LONG)
    with pytest.raises(TransferError):
        pair.grant(region, [[0, 100]])
    assert pair.ends.told == [GrantEnd(Outcome.CLOSED)]


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ([[101, 0, 100]], "the region"),
        ([[0, 1, 100]], "the grant"),
        ([[0, 100, 1]], "the grant"),
        ([[0, -1, 1]], "negative"),
        ([[0, 0, 0]], "empty"),
        ([[0, 0]], "shape"),
        ([[0, 0, 10], [9, 20, 10]], "overlap"),
    ],
)
def test_what_is_out_of_bounds_is_refused(
    pair: Pair, batch: list[list[int]], said: str
) -> None:
    data = noise(100)
    grant = pair.grant(pair.make(data), [[0, 100]])
    into = pair.target(200)[1]
    with pytest.raises(ValueError, match=said):
        pair.link.read(grant, into, np.array(batch), timeout=SECONDS)
    transfer = pair.link.read(grant, into, timeout=SECONDS)
    transfer.add(WHOLE)
    with pytest.raises(ValueError, match=said):
        transfer.add(np.array([[row[0] + 100, *row[1:]] for row in batch]))
    with pytest.raises(ValueError, match="overlap at byte 0"):
        transfer.add(HALF)
    transfer.cancel()
    assert read(pair, grant)[:100] == data.tobytes()


def test_what_was_written_cannot_be_written_again(pair: Pair) -> None:
    region = pair.make(noise(100))
    source = pair.near(noise(200, 2))
    grant = pair.grant(region, [[0, 100]], "write")
    twice = np.array([[0, 0, 60], [100, 59, 10]])
    with pytest.raises(ValueError, match="byte 59"):
        pair.link.write(grant, source, twice, timeout=SECONDS)
    transfer = pair.link.write(grant, source, timeout=SECONDS)
    transfer.add(twice[:1])
    with pytest.raises(ValueError, match="byte 59"):
        transfer.add(twice[1:])
    # Bytes that are sent may be sent twice.
    transfer.add(np.array([[0, 60, 40]]))
    transfer.finish()
    transfer.wait()
    sent = np.frombuffer(source.memory, np.uint8)
    assert (pair.held(region) == np.r_[sent[:60], sent[:40]]).all()


def test_what_is_read_may_be_read_twice(pair: Pair) -> None:
    data = noise(100)
    grant = pair.grant(pair.make(data), [[0, 100]])
    batch = np.array([[0, 0, 100], [100, 0, 100]])
    assert read(pair, grant, batch) == data.tobytes() * 2


def test_nothing_beyond_a_grant_is_read(pair: Pair) -> None:
    region = pair.make(noise(300))
    grant = pair.grant(region, [[100, 50]])
    memory, into = pair.target(300)
    more = replace(grant, size=200)
    batch = np.array([[0, 0, 200]])
    with pytest.raises(TransferError):
        pair.link.read(more, into, batch, timeout=SECONDS).wait()
    # Not even of what is granted, since the batch as a whole is not.
    assert not memory.any()
    assert not pair.ends.told


def test_a_grant_is_for_one_access(pair: Pair) -> None:
    data = noise(100)
    region, near = pair.make(data), pair.near(noise(100, 2))
    to_read = pair.grant(region, [[0, 100]])
    forged = replace(to_read, access="write")
    with pytest.raises(TransferRefused):
        pair.link.write(forged, near, WHOLE, timeout=SECONDS).wait()
    to_write = pair.grant(region, [[0, 100]], "write")
    refusal(pair, replace(to_write, access="read"))
    assert (pair.held(region) == data).all()
    assert not pair.ends.told


def test_what_cannot_be_granted_is_said(pair: Pair) -> None:
    region = pair.make(noise(100))
    for ranges, said in [
        ([[0, 101]], "has 100"),
        ([[-1, 1]], "negative"),
        ([], "shape"),
    ]:
        with pytest.raises(ValueError, match=said):
            pair.grant(region, ranges)
    with pytest.raises(ValueError, match="overlap"):
        pair.grant(region, [[0, 10], [9, 10]], "write")
    with pytest.raises(ValueError, match="lease"):
        pair.lender.grant(region, np.array([[0, 1]]), "read", pair.ends, 0)
    for buffer in (memoryview(b"read only"), memoryview(bytearray(9))[::2]):
        with pytest.raises(ValueError, match="writable"):
            pair.mover.register(buffer)
    assert not pair.ends.told
