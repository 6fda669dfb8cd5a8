"""A redis-server of a test's own, which can be stopped, started again and held up."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis

PROGRAM = "redis-server"


class Server:
    """Listens on a Unix socket in a folder, and keeps nothing."""

    def __init__(self, folder: Path) -> None:
        self._socket = folder / "redis.sock"
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"unix://{self._socket}"

    @property
    def client(self) -> Redis:
        """A client of the test's own, which may write anything."""
        return Redis(unix_socket_path=str(self._socket))

    def start(self) -> None:
        """Start it, and wait until it listens."""
        assert self._process is None
        options = {"port": "0", "save": "", "unixsocket": str(self._socket)}
        command = [
            each for key, value in options.items() for each in (f"--{key}", value)
        ]
        self._process = subprocess.Popen(
            [PROGRAM, *command],
            stdout=subprocess.PIPE,
            text=True,
            cwd=self._socket.parent,
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if "eady to accept connections" in line:
                return
        raise AssertionError("redis-server ended; its output says why")

    def stop(self) -> None:
        """Kill it; what it held is gone."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    @contextmanager
    def held_up(self) -> Iterator[None]:
        """It answers nobody within the block."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)


@contextmanager
def serving() -> Iterator[Server]:
    """A server that runs; the test is skipped if there is none, but fails with CI."""
    if shutil.which(PROGRAM) is None and not os.environ.get("CI"):
        pytest.skip("redis-server is not installed: apt-get install redis-server")
    # Paths of Unix sockets are short.
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        server = Server(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()
