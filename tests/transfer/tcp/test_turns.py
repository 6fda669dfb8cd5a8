"""Whose turn it is at memory that is lent for writing, and what is withdrawn first."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest

from prefillshare.errors import TransferEnded, TransferTimeout
from prefillshare.transfer.base import Access, GrantEnd, Outcome
from prefillshare.transfer.grants import Loan
from prefillshare.transfer.tcp import engine, frames
from prefillshare.transfer.tcp.engine import TcpEngine
from tests.transfer.pairs import SECONDS, noise, nothing_left_behind, until
from tests.transfer.tcp.forger import LONG, SIZE, Forger, Lent, secrets, slice_of

BOTH = pytest.mark.parametrize("access", ["read", "write"])


@pytest.fixture
def lender() -> Iterator[TcpEngine]:
    with nothing_left_behind():
        made = TcpEngine(settings=LONG)
        yield made
        made.close()


@pytest.fixture
def forger(lender: TcpEngine) -> Iterator[Forger]:
    made = Forger(lender)
    yield made
    made.close()


class Held:
    """A transfer whose stream is in the midst of a slice, at memory to write to."""

    def __init__(self, lender: TcpEngine, forger: Forger) -> None:
        self.lent = Lent(lender, "write")
        self._forger, self._rest = forger, slice_of(1, bytes(SIZE))
        self.loans = lender.table._kept[secrets(self.lent.grant)[0]].inside
        forger.write(1, self.lent.grant)
        self.go_on(len(self._rest) - 100)
        (session,) = lender._listener._sessions.values()
        until(lambda: bool((end := session.board.find(1)) and end.active))

    def go_on(self, size: int = SIZE) -> None:
        """The next bytes of the slice."""
        self._forger.stream.sendall(self._rest[:size])
        self._rest = self._rest[size:]


def test_who_waits_for_a_turn_holds_nobody_else_up(
    lender: TcpEngine, forger: Forger
) -> None:
    held, other = Held(lender, forger), Lent(lender, "write")
    forger.write(2, held.lent.grant)
    forger.small(3, other.grant, b"at once")
    # Two threads say so: in either order.
    kinds = {type(forger.hear()) for _ in range(2)}
    assert kinds == {frames.Fail, frames.Done}
    assert other.memory.startswith(b"at once")
    assert len(held.loans) == 2
    data = noise(SIZE).tobytes()
    held.go_on()
    forger.stream.sendall(slice_of(2, data))
    assert forger.hear() == frames.Done(2)
    assert held.lent.ends.one() == GrantEnd(Outcome.DONE, b"", SIZE)
    assert held.lent.memory == data


def test_who_is_withdrawn_while_it_waits_for_its_turn_ends(
    lender: TcpEngine, forger: Forger
) -> None:
    held = Held(lender, forger)
    forger.write(2, held.lent.grant)
    assert isinstance(forger.hear(), frames.Fail)
    until(lambda: len(held.loans) == 2)
    lender.revoke(held.lent.grant.grant_id)
    said = forger.hear()
    assert isinstance(said, frames.Fail) and said.transfer == 2
    assert b"withdrew" in said.text
    # Its owner may use the memory once the earlier one has left it, too.
    assert not held.lent.ends.told
    held.go_on()
    forger.stream.sendall(slice_of(2, noise(SIZE).tobytes()))
    assert held.lent.ends.one() == GrantEnd(Outcome.REVOKED)
    assert held.lent.memory == bytes(SIZE)


def test_a_small_write_takes_its_turn(lender: TcpEngine, forger: Forger) -> None:
    held = Held(lender, forger)
    forger.small(2, held.lent.grant, b"replaced")
    forger.small(3, held.lent.grant, b"in its turn")
    said = [forger.hear() for _ in range(2)]
    assert [each.transfer for each in said if isinstance(each, frames.Fail)] == [1, 2]
    assert not any(held.lent.memory)
    held.go_on()
    assert forger.hear() == frames.Done(3)
    assert held.lent.ends.one() == GrantEnd(Outcome.DONE, b"small", 11)
    assert held.lent.memory.startswith(b"in its turn\0")


def test_a_small_write_that_waits_ends_with_its_session(
    lender: TcpEngine, forger: Forger
) -> None:
    held = Held(lender, forger)
    forger.small(2, held.lent.grant, b"never")
    assert isinstance(forger.hear(), frames.Fail)
    until(lambda: len(held.loans) == 2)
    forger.close()
    # Its turn may come as the stream goes, before the session has.
    until(lambda: not held.loans)
    lender.deregister(held.lent.region)
    assert any(held.lent.memory) is (held.lent.ends.one().outcome is Outcome.DONE)


@BOTH
def test_what_is_withdrawn_as_it_begins_ends(
    lender: TcpEngine, access: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    lent, enter = Lent(lender, access), lender.table.enter

    def withdrawn(*asked: object) -> Loan:
        loan = enter(*asked)  # type: ignore[arg-type]
        lender.revoke(lent.grant.grant_id)
        # Calls of the timer come one after the other: whoever was told has acted.
        told = threading.Event()
        lender._timer.after(0.0, told.set)
        assert told.wait(SECONDS)
        return loan

    monkeypatch.setattr(lender.table, "enter", withdrawn)
    mover = TcpEngine(settings=LONG)
    with contextlib.closing(mover):
        near = mover.register(memoryview(bytearray(noise(SIZE).tobytes())))
        link = mover.connect(lender.address)
        begin = link.read if access == "read" else link.write
        transfer = begin(lent.grant, near, timeout=SECONDS)
        with pytest.raises(TransferEnded, match="withdrew"):
            transfer.wait(SECONDS / 2)
        assert lent.ends.one() == GrantEnd(Outcome.REVOKED)


def test_memory_that_is_not_let_go_of_stays_registered(
    lender: TcpEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "END_SECONDS", 0.01)
    lent = Lent(lender, "read")
    loan = lender.table.enter(*secrets(lent.grant), "read", lambda _: None)
    with pytest.raises(TransferTimeout, match="do not free the memory"):
        lender.deregister(lent.region)
    assert not lent.ends.told
    lender.table.leave(loan, None)
    assert lent.ends.one() == GrantEnd(Outcome.REVOKED)
    lender.deregister(lent.region)
    with pytest.raises(ValueError, match="not registered"):
        lender.deregister(lent.region)
