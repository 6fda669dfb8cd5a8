"""`prefillshare serve agent`: a process of its own, and what it leaves: nothing."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest

from prefillshare.cli import main
from prefillshare.errors import CapacityError, TransferBroken
from prefillshare.transfer.agent.client import AgentEngine
from tests.serving.agents import SIZE, agent_process
from tests.transfer.pairs import SECONDS, noise


def test_workers_move_bytes_through_it(tmp_path: Path) -> None:
    with agent_process(tmp_path, "tcp.slice_bytes=65536") as (process, address):
        lender, mover = (AgentEngine(str(tmp_path / "socket")) for _ in range(2))
        try:
            assert lender.address == address
            source, target = lender.allocate(SIZE // 2), mover.allocate(SIZE // 2)
            with pytest.raises(CapacityError, match="larger arena"):
                mover.allocate(1)
            source[:] = noise(SIZE // 2).data
            whole = np.array([[0, SIZE // 2]])
            region = lender.register(source)
            grant = lender.grant(region, whole, "read", lambda _: None)
            link = mover.connect(address)
            batch = np.array([[0, 0, SIZE // 2]])
            into = mover.register(target)
            link.read(grant, into, batch, timeout=SECONDS).wait(SECONDS)
            assert target == source
        finally:
            lender.close()
            mover.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert list(tmp_path.iterdir()) == []


def test_it_ends_with_its_launcher(tmp_path: Path) -> None:
    with agent_process(tmp_path) as (process, _):
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_worker_is_told_that_none_is_there(tmp_path: Path) -> None:
    with pytest.raises(TransferBroken, match="start one with `prefillshare serve"):
        AgentEngine(str(tmp_path / "socket"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["listen=tcp://0.0.0.0:0"], "prefillshare keys"),
        (
            ["listen=tcp://0.0.0.0:7000", "security={ca: a, certificate: b, key: c}"],
            "tcp://0.0.0.0:7000 is every address of this machine",
        ),
        (["advertise=0.0.0.0"], "every address of this machine"),
        (["listen=127.0.0.1"], "tcp://HOST:PORT"),
        (["routes={tcp://127.0.0.1:1: nowhere}"], "tcp://HOST:PORT"),
        (["security={ca: a, certificate: b, key: c}"], "cannot be read"),
        (["arena=5"], "arena_bytes"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_said(
    tmp_path: Path,
    changes: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = [f"socket={tmp_path / 'socket'}", "arena_bytes=4096", *changes]
    words = [word for each in settings for word in ("--set", each)]
    assert main(["serve", "agent", *words]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_socket_that_is_taken_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "socket"
    path.touch()
    words = ["--set", f"socket={path}", "--set", "arena_bytes=4096"]
    assert main(["serve", "agent", *words]) == 2
    assert "remove the file if no agent runs" in capsys.readouterr().err
