"""Who becomes a peer: who says something else, nothing, or too much, is turned away."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from prefillshare.errors import (
    ConfigError,
    TransferBroken,
    TransferIntegrityError,
    TransferRefused,
)
from prefillshare.transfer.base import ID_BYTES
from prefillshare.transfer.tcp import dial, frames, listener
from prefillshare.transfer.tcp.engine import TcpEngine
from prefillshare.transfer.tcp.sockets import format_address, parse_address
from tests.transfer.networked import security
from tests.transfer.pairs import SECONDS, nothing_left_behind, until
from tests.transfer.tcp.rig import SETTINGS, Rig, engine, rig, served

QUICK = SETTINGS.model_copy(update={"handshake_seconds": 0.3})


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    with nothing_left_behind():
        yield


@pytest.fixture
def lender(tmp_path: Path) -> Iterator[Rig]:
    """One with a certificate, to which its rightful peer still has a way afterwards."""
    with rig(tmp_path / "ours", sealed=True) as made:
        yield made
        made.works()


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello"]
)
def test_who_speaks_something_else_is_turned_away(lender: Rig, said: bytes) -> None:
    where = parse_address(lender.lender.address)
    with socket.create_connection(where, SECONDS) as sock:
        sock.sendall(said)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(1 << 16):
            pass


def test_a_port_of_something_else_is_named(tmp_path: Path) -> None:
    with served(lambda sock: sock.sendall(b"HTTP/1.1 400 Bad Request\r\n")) as address:
        with engine(None) as mover:
            with pytest.raises(TransferIntegrityError, match="is this the port of a"):
                mover.connect(address)
        with engine(security(tmp_path, "a", "site")) as mover:
            with pytest.raises(TransferRefused, match="does not speak TLS"):
                mover.connect(address)


def test_another_version_is_named_on_both_sides(lender: Rig) -> None:
    hello = frames.Hello(frames.MAGIC, 9, False, bytes(ID_BYTES), bytes(16), bytes(32))
    with served(lambda sock: sock.sendall(hello.encode())) as address:
        with engine(None) as mover:
            with pytest.raises(TransferIntegrityError, match="version 9"):
                mover.connect(address)
    with engine(None) as plain:
        with socket.create_connection(parse_address(plain.address), SECONDS) as sock:
            sock.sendall(hello.encode())
            answer = frames.read_frame(sock.recv)
    assert isinstance(answer, frames.Fail) and b"version 9" in answer.text


def test_a_peer_that_never_ends_its_greeting_is_cut_off() -> None:
    hello = dial.hello(bytes(ID_BYTES), False).encode()
    with engine(None, QUICK) as lender:
        with socket.create_connection(parse_address(lender.address)) as sock:
            # Each byte comes soon after the one before, and all of them take too long.
            sock.settimeout(0.1)
            for byte in hello:
                sock.sendall(bytes([byte]))
                if cut_off(sock):
                    break
            else:
                raise AssertionError("it was waited for to the end")


def cut_off(sock: socket.socket) -> bool:
    """Whether the other side ends the connection within the socket's time-out."""
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


@pytest.mark.parametrize("greeting", [b"", b"\0", b"\x16"])
def test_strangers_that_say_nothing_do_not_keep_peers_out(greeting: bytes) -> None:
    with engine(None, QUICK) as lender, engine(None) as mover:
        where = parse_address(lender.address)
        strangers = [socket.create_connection(where) for _ in range(70)]
        for sock in strangers:
            sock.sendall(greeting)
        assert mover.connect(lender.address).peer == lender.engine_id
        for sock in strangers:
            sock.close()


@contextmanager
def dripping(socks: list[socket.socket]) -> Iterator[None]:
    """A byte after the other on each, until the block is over."""
    over = threading.Event()

    def drip() -> None:
        while not over.wait(0.02):
            for sock in socks:
                with suppress(OSError):
                    sock.sendall(b"x")

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_strangers_that_are_turned_away_and_go_on_do_not_keep_peers_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listener, "_STRANGERS", 3)
    with engine(None, QUICK) as lender, engine(None) as mover:
        where = parse_address(lender.address)
        strangers = [socket.create_connection(where) for _ in range(6)]
        for sock in strangers:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with dripping(strangers):
            assert mover.connect(lender.address).peer == lender.engine_id
        for sock in strangers:
            sock.close()


def test_a_lender_that_says_nothing_is_broken(tmp_path: Path) -> None:
    keys = security(tmp_path, "a", "site")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = format_address(*silent.getsockname())
        for each in (None, keys):
            with engine(each, QUICK) as mover:
                with pytest.raises(TransferBroken, match="no answer"):
                    mover.connect(address)


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = format_address(*gone.getsockname())
    with engine(None) as mover, pytest.raises(TransferBroken, match="refused"):
        mover.connect(address)


def test_too_many_peers_are_refused() -> None:
    one = SETTINGS.model_copy(update={"max_sessions": 1})
    with engine(None, one) as lender, engine(None) as mover:
        link = mover.connect(lender.address)
        with pytest.raises(TransferRefused, match="max_sessions"):
            mover.connect(lender.address)
        link.close()
        until(lambda: not lender._listener._sessions)
        assert mover.connect(lender.address).peer == lender.engine_id


def test_without_certificates_no_other_machine_is_spoken_to() -> None:
    for listen in ("tcp://0.0.0.0:0", "tcp://[::]:0", "tcp://192.0.2.1:0"):
        with pytest.raises(ConfigError, match="prefillshare keys"):
            TcpEngine(listen)
    with engine(None) as mover, pytest.raises(ConfigError, match="prefillshare keys"):
        mover.connect("tcp://192.0.2.1:9")
