"""Who sizes the buffers of data connections: whoever can make them larger."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import pytest

from prefillshare.transfer.tcp import buffers
from prefillshare.transfer.tcp.buffers import Limits, limits_of
from prefillshare.transfer.tcp.session import Session
from prefillshare.transfer.tcp.settings import TcpSettings
from prefillshare.transfer.tcp.sockets import connect
from tests.transfer.tcp.rig import SETTINGS, rig

OPTIONS = (socket.SO_SNDBUF, socket.SO_RCVBUF)
PATH = SETTINGS.model_copy(update={"bandwidth_gbps": 0.4, "rtt_seconds": 0.01})


@pytest.fixture(autouse=True)
def told_anew() -> None:
    buffers._warn.cache_clear()


def test_a_stream_has_its_share_of_bandwidth_times_delay() -> None:
    path = TcpSettings(streams=4, bandwidth_gbps=0.4, rtt_seconds=0.01)
    assert path.buffer_bytes == 125_000
    wide = path.model_copy(update={"bandwidth_gbps": 10.0, "rtt_seconds": 0.08})
    assert wide.buffer_bytes == 25_000_000


@pytest.mark.parametrize(
    ("asked", "tuned", "chosen"),
    [
        # As kernels come: who asks gets less than who does not.
        (212_992, 2 << 20, None),
        # It is reached by itself.
        (64 << 20, 32 << 20, None),
        (64 << 20, 2 << 20, 25_000_000),
        # Not all of it can be had, and more by asking.
        (16 << 20, 2 << 20, 16 << 20),
    ],
)
def test_the_kernel_is_asked_where_it_gives_more_then(
    asked: int, tuned: int, chosen: int | None
) -> None:
    assert Limits("wmem", asked, tuned).choose(25_000_000) == chosen


def test_what_cannot_be_had_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        Limits("rmem", 212_992, 3 << 20).choose(25_000_000)
        Limits("rmem", 64 << 20, 3 << 20).choose(25_000_000)
    (told,) = caplog.records
    assert told.levelno == logging.WARNING
    assert "net.core.rmem_max to 25000000" in told.message
    assert "net.ipv4.tcp_rmem to 50000000" in told.message


def test_limits_are_the_kernels_or_those_that_it_comes_with(tmp_path: Path) -> None:
    assert limits_of("wmem", tmp_path) == Limits("wmem", 212_992, 2 << 20)
    (tmp_path / "core").mkdir()
    (tmp_path / "ipv4").mkdir()
    (tmp_path / "core/wmem_max").write_text("1000\n")
    (tmp_path / "ipv4/tcp_wmem").write_text("4096\t16384\t5000\n")
    assert limits_of("wmem", tmp_path) == Limits("wmem", 1000, 2500)


def sizes(sock: socket.socket) -> list[int]:
    return [sock.getsockopt(socket.SOL_SOCKET, option) for option in OPTIONS]


def both(pair_session: Session | None, lent: Session) -> list[socket.socket]:
    assert pair_session is not None
    several = [*pair_session.streams(), *lent.streams()]
    assert len(several) == 2 * PATH.streams
    return [each._sock for each in several]


def test_buffers_are_asked_for_on_both_sides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = {name: Limits(name, 1 << 20, 1 << 10) for name in ("wmem", "rmem")}
    monkeypatch.setattr(buffers, "limits_of", narrow.__getitem__)
    with rig(tmp_path, settings=PATH) as pair:
        (lent,) = pair.lender._listener._sessions.values()
        for sock in both(pair.link._session, lent):
            # The kernel doubles it, for its own needs.
            assert sizes(sock) == [250_000, 250_000]
        pair.works()


def test_buffers_are_left_to_a_kernel_that_reaches_the_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = {name: Limits(name, 1 << 30, 1 << 20) for name in ("wmem", "rmem")}
    monkeypatch.setattr(buffers, "limits_of", wide.__getitem__)
    with rig(tmp_path, settings=PATH) as pair:
        (lent,) = pair.lender._listener._sessions.values()
        for sock in both(pair.link._session, lent):
            assert 250_000 not in sizes(sock)


def test_buffers_are_sized_before_the_window_is_agreed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []

    class Watched(socket.socket):
        def setsockopt(self, *asked: object) -> None:
            said.extend(["sized"] * (asked[1] in OPTIONS))
            super().setsockopt(*asked)  # type: ignore[call-overload]

        def connect(self, where: object) -> None:
            said.append("connected")
            super().connect(where)  # type: ignore[arg-type]

    narrow = {name: Limits(name, 1 << 20, 1 << 10) for name in ("wmem", "rmem")}
    monkeypatch.setattr(buffers, "limits_of", narrow.__getitem__)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(socket, "socket", Watched)
        with connect(server.getsockname(), 5.0, 125_000):
            assert said == ["sized", "sized", "connected"]
