"""The link emulator as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from urllib.parse import urlsplit

import pytest

from prefillshare.lifeline import LIFELINE_VARIABLE
from prefillshare.transfer.linkemu.__main__ import main

COMMAND = [sys.executable, "-m", "prefillshare.transfer.linkemu"]


def test_it_passes_on_until_it_is_interrupted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as target:
        where = f"127.0.0.1:{target.getsockname()[1]}"
        command = [*COMMAND, where, "--set", "delay=0.001"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            url = urlsplit(json.loads(process.stdout.readline())["url"])
            assert url.hostname is not None and url.port is not None
            with socket.create_connection((url.hostname, url.port)) as near:
                far, _ = target.accept()
                with far:
                    near.sendall(b"over")
                    assert far.recv(4, socket.MSG_WAITALL) == b"over"
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0


def test_it_ends_with_its_launcher() -> None:
    environment = {**os.environ, LIFELINE_VARIABLE: "1"}
    with subprocess.Popen(
        [*COMMAND, "127.0.0.1:9"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        assert json.loads(process.stdout.readline())["role"] == "link"
        process.stdin.close()
        assert process.wait(30) == 0


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["nowhere"], 2, "HOST:PORT"),
        (["127.0.0.1:9", "--set", "rat=5"], 2, "rate"),
    ],
)
def test_wrong_use_is_said(
    arguments: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == status
    assert said in capsys.readouterr().err


def test_a_port_that_is_taken_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["127.0.0.1:9", "--listen", str(port)]) == 1
    assert f"port {port}" in capsys.readouterr().err
