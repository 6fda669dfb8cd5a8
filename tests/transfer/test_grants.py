"""The table of grants by itself: what needs a hand on every step."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from prefillshare.errors import TransferClosed, TransferEnded, TransferRefused
from prefillshare.transfer.base import Access, Grant, GrantEnd, Outcome
from prefillshare.transfer.grants import GrantTable, Loan
from prefillshare.transfer.ranges import Pieces
from tests.transfer.pairs import SECONDS, Clock, Ends, nothing_left_behind

DONE = GrantEnd(Outcome.DONE, b"note", 4)


class Table(GrantTable):
    """A table with a clock that is set, and lists of who was told what."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.ends = Ends()
        self.aborts: list[Exception] = []
        super().__init__(self.clock)

    def lend(self, seconds: float = 60.0, access: Access = "read") -> Grant:
        pieces = Pieces(memoryview(bytearray(4)), np.array([[0, 4]]))
        return self.add(pieces, access, "memory://1", "0" * 32, self.ends, seconds, 7)

    def go_in(self, grant: Grant) -> Loan:
        key, secret = bytes.fromhex(grant.grant_id), bytes.fromhex(grant.capability)
        return self.enter(key, secret, grant.access, self.aborts.append)


@pytest.fixture
def table() -> Iterator[Table]:
    with nothing_left_behind():
        made = Table()
        yield made
        made.close()
        assert made.join(SECONDS)


def settled(table: Table) -> None:
    """Wait until the table's thread has told everything that it had to tell so far."""
    told = Ends()
    pieces = Pieces(memoryview(bytearray(4)), np.array([[0, 4]]))
    marker = table.add(pieces, "read", "memory://1", "0" * 32, told, 60.0)
    table.revoke(marker.grant_id)
    told.one()


def test_the_owner_is_not_told_while_a_transfer_is_inside(table: Table) -> None:
    grant = table.lend()
    first, second = table.go_in(grant), table.go_in(grant)
    assert [type(each) for each in table.aborts] == [TransferEnded]
    table.revoke(grant.grant_id)
    assert len(table.aborts) == 2
    settled(table)
    assert not table.ends.told
    assert not table.leave(second, DONE)
    settled(table)
    assert not table.ends.told
    assert not table.leave(first, None)
    assert table.ends.one() == GrantEnd(Outcome.REVOKED)


def test_a_transfer_that_was_replaced_cannot_say_done(table: Table) -> None:
    grant = table.lend()
    first, second = table.go_in(grant), table.go_in(grant)
    assert not table.leave(first, DONE)
    settled(table)
    assert not table.ends.told
    assert table.leave(second, DONE)
    assert table.ends.one() == DONE


def test_a_transfer_that_fails_leaves_the_grant(table: Table) -> None:
    grant = table.lend()
    for _ in range(3):
        assert table.leave(table.go_in(grant), None)
    assert not table.aborts and not table.ends.told
    assert table.leave(table.go_in(grant), DONE)
    assert table.ends.one() == DONE
    with pytest.raises(TransferRefused):
        table.go_in(grant)


def test_a_writer_waits_for_those_before_it(table: Table) -> None:
    grant = table.lend(access="write")
    first, second = table.go_in(grant), table.go_in(grant)
    assert table.first(first, 0)
    assert not table.first(second, 0)
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(table.first(second, SECONDS)))
    thread.start()
    table.leave(first, None)
    thread.join()
    assert found == [True]
    table.leave(second, None)


def test_leases_end_each_at_their_time(table: Table) -> None:
    long, short = table.lend(100.0), table.lend(10.0)
    inside = table.go_in(short)
    table.clock.now += 9.9
    table.recheck()
    settled(table)
    assert not table.aborts
    table.leave(inside, None)
    table.clock.now += 0.1
    with pytest.raises(TransferRefused):
        table.go_in(short)
    table.recheck()
    assert table.ends.one() == GrantEnd(Outcome.EXPIRED)
    table.leave(table.go_in(long), DONE)
    settled(table)
    assert table.ends.told == [GrantEnd(Outcome.EXPIRED), DONE]


def test_many_grants_that_are_used_leave_nothing_to_watch(table: Table) -> None:
    for _ in range(500):
        table.leave(table.go_in(table.lend()), DONE)
    settled(table)
    assert table.ends.told == [DONE] * 500
    assert table.watched <= 100


def test_closing_ends_all_and_takes_no_more(table: Table) -> None:
    grant, _ = table.lend(), table.lend()
    inside = table.go_in(grant)
    table.close()
    with pytest.raises(TransferClosed):
        table.lend()
    assert not table.join(0.01)
    table.leave(inside, DONE)
    assert table.join(SECONDS)
    assert table.ends.told == [GrantEnd(Outcome.CLOSED)] * 2


def test_a_region_is_free_when_its_grants_are_over(table: Table) -> None:
    grant = table.lend()
    inside = table.go_in(grant)
    assert not table.revoke_region(7, 0.01)
    table.leave(inside, None)
    assert table.revoke_region(7, SECONDS)
    assert table.ends.told == [GrantEnd(Outcome.REVOKED)]
    assert table.revoke_region(8, 0)


def test_an_owner_may_call_the_table(table: Table) -> None:
    said: list[bool] = []
    over = threading.Event()

    def on_end(_: GrantEnd) -> None:
        # It does not wait for itself to be told.
        said.append(table.revoke_region(3, SECONDS))
        table.close()
        said.append(table.join(SECONDS))
        over.set()

    pieces = Pieces(memoryview(bytearray(4)), np.array([[0, 4]]))
    grant = table.add(pieces, "read", "memory://1", "0" * 32, on_end, 60.0, 3)
    table.revoke(grant.grant_id)
    assert over.wait(SECONDS)
    assert said == [True, False]


def test_an_owner_is_told_whether_other_grants_of_the_memory_are_used(
    table: Table,
) -> None:
    said: list[bool] = []
    over = threading.Event()
    inside = table.go_in(table.lend())

    def on_end(_: GrantEnd) -> None:
        said.append(table.revoke_region(7, 0.01))
        table.leave(inside, None)
        said.append(table.revoke_region(7, SECONDS))
        over.set()

    pieces = Pieces(memoryview(bytearray(4)), np.array([[0, 4]]))
    grant = table.add(pieces, "read", "memory://1", "0" * 32, on_end, 60.0, 7)
    table.revoke(grant.grant_id)
    assert over.wait(SECONDS)
    assert said == [False, True]


def test_a_turn_comes_once_those_before_have_left(table: Table) -> None:
    grant = table.lend(access="write")
    turns: list[str] = []
    first, second, third = (table.go_in(grant) for _ in range(3))
    assert table.first_or_later(first, lambda: turns.append("first"))
    assert not table.first_or_later(second, lambda: turns.append("second"))
    assert not table.first_or_later(third, lambda: turns.append("third"))
    # One that leaves before its turn does not hold up who comes after it.
    table.leave(second, None)
    assert not turns
    table.leave(first, None)
    assert turns == ["third"]
    assert table.first_or_later(third, lambda: turns.append("again"))
    table.leave(third, DONE)
    assert table.ends.one() == DONE
    settled(table)
    assert not table.first_or_later(third, lambda: turns.append("gone"))
    assert turns == ["third"]
