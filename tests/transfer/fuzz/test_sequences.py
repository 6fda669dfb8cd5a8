"""Frames that are well-formed, in an order that makes no sense, cut anywhere."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefillshare.errors import TransferError
from prefillshare.transfer.base import GrantEnd, Outcome
from prefillshare.transfer.tcp import frames
from prefillshare.transfer.tcp.dial import hello
from prefillshare.transfer.tcp.engine import TcpEngine
from prefillshare.transfer.tcp.sockets import parse_address
from tests.transfer.fuzz.defects import no_defect
from tests.transfer.fuzz.lending import SECONDS, Victim, session
from tests.transfer.fuzz.programs import Program
from tests.transfer.fuzz.seeds import PROGRAMS
from tests.transfer.pairs import Ends, noise, nothing_left_behind, until

SIZE = 50_000
SNIPPETS = st.one_of(st.sampled_from(list(PROGRAMS.values())), st.binary(max_size=20))
ORDERS = st.lists(SNIPPETS, max_size=8).map(b"".join)


@given(ORDERS)
@settings(deadline=None)
def test_any_order_ends_every_grant_once_and_writes_nowhere_else(data: bytes) -> None:
    session(data)


@pytest.mark.parametrize("step", [1, 2, 7, 100])
@pytest.mark.parametrize(
    ("name", "done"), [("read", "r"), ("write", "w"), ("eager", "w"), ("talk", "")]
)
def test_it_makes_no_difference_where_it_is_cut(
    name: str, done: str, step: int
) -> None:
    with no_defect():
        victim = Victim(step)
        victim.hear(Program(PROGRAMS[name], victim.grants))
        if done:
            until(lambda: bool(victim.ends[done]))
        victim.close()
        victim.check()
    ended = {
        letter for letter, (end,) in victim.ends.items() if end.outcome is Outcome.DONE
    }
    assert ended == set(done)


class Engines:
    """A lender and a mover that means well; an outsider talks to the same lender."""

    def __init__(self) -> None:
        self.lender, self.mover = TcpEngine(), TcpEngine()
        self.link = self.mover.connect(self.lender.address)
        self.data = noise(SIZE)
        self.region = self.lender.register(self.data.copy().data)
        self.target = np.zeros(SIZE, np.uint8)
        self.into = self.mover.register(self.target.data)

    def grant(self, ends: Ends) -> tuple[bytes, bytes]:
        found = self.lender.grant(self.region, np.array([[0, SIZE]]), "read", ends)
        return bytes.fromhex(found.grant_id), bytes.fromhex(found.capability)

    def works(self) -> None:
        """The next transfer of the others delivers all bytes."""
        ends = Ends()
        grant = self.lender.grant(self.region, np.array([[0, SIZE]]), "read", ends)
        self.target[:] = 0
        whole = np.array([[0, 0, SIZE]])
        self.link.read(grant, self.into, whole, timeout=SECONDS).wait()
        assert (self.target == self.data).all()
        assert ends.one() == GrantEnd(Outcome.DONE, b"", SIZE)


@contextmanager
def connected(address: str) -> Iterator[socket.socket]:
    """A session by hand, after the handshake."""
    with socket.create_connection(parse_address(address), SECONDS) as sock:
        sock.sendall(hello(bytes(16), False).encode())
        answer = frames.read_frame(sock.recv)
        assert isinstance(answer, frames.Hello)
        yield sock


@pytest.fixture(scope="module")
def engines() -> Iterator[Engines]:
    with nothing_left_behind():
        made = Engines()
        yield made
        made.mover.close()
        made.lender.close()


MOVES = ["open", "add", "finish", "done", "ping", "lost", "hello", "fail", "have"]


@given(st.lists(st.sampled_from(MOVES), max_size=12))
@settings(deadline=None, max_examples=40)
def test_an_outsider_harms_no_other(engines: Engines, moves: list[str]) -> None:
    ends = Ends()
    grant, secret = engines.grant(ends)
    table = frames.packed(np.array([[0, SIZE]]))
    made: dict[str, frames.Frame] = {
        "open": frames.Open(1, False, 4096, grant, secret, bytes(32), b""),
        "add": frames.Add(1, table),
        "finish": frames.Finish(1, SIZE),
        "done": frames.Done(1),
        "ping": frames.Ping(),
        "lost": frames.Lost(1),
        "hello": hello(bytes(16), False),
        "fail": frames.Fail(1, frames.Code.ENDED, b"enough"),
        "have": frames.Have(1, 1, b"\1"),
    }
    with no_defect(), connected(engines.lender.address) as sock:
        with suppress(OSError):
            for place, move in enumerate(moves, 1):
                sock.sendall(made[move].encode(place))
            sock.shutdown(socket.SHUT_WR)
        with suppress(OSError, TransferError):
            for place in range(1, 1000):
                frames.read_frame(sock.recv, place)
    engines.works()
    engines.lender.revoke(grant.hex())
    assert ends.one().outcome in (Outcome.DONE, Outcome.REVOKED)
    assert engines.region.memory == engines.data.data
