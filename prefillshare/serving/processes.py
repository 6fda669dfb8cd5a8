"""Processes that are started, awaited and ended together."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from prefillshare.errors import WorkerError
from prefillshare.lifeline import LIFELINE_VARIABLE

_START_TIMEOUT = 180.0


@dataclass
class Role:
    """A started process; `url` once it is ready."""

    name: str
    process: subprocess.Popen[str]
    url: str = ""


class Stopped(Exception):
    """Nobody wants the processes any more."""


class Processes:
    """Python modules as processes of their own, which end when this one does.

    `stopped` ends the waiting for them; `variables` are added to the environment.
    """

    def __init__(self, stopped: threading.Event, variables: Mapping[str, str]) -> None:
        self._stopped = stopped
        self._environment = {**os.environ, **variables, LIFELINE_VARIABLE: "1"}
        self.roles: list[Role] = []

    def spawn(self, name: str, module: str, arguments: Sequence[str]) -> Role:
        """Start `python -m MODULE ARGUMENTS…`; `await_ready` follows."""
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self._environment,
            # Ctrl-C reaches the launcher alone, which then ends the others in order.
            start_new_session=True,
        )
        started = Role(name, process)
        self.roles.append(started)
        return started

    def await_ready(self, *roles: Role) -> None:
        """Return when all have announced themselves.

        Raises:
            WorkerError: one did not.
            Stopped: `stopped` was set meanwhile.
        """
        deadline = time.monotonic() + _START_TIMEOUT
        for role in roles:
            assert role.process.stdout is not None
            line = self._read_line(role.process.stdout, deadline)
            if not line:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    role.process.wait(1.0)
                raise WorkerError(
                    f"the {role.name} did not start (exit status "
                    f"{role.process.poll()}); what it printed above says why"
                )
            role.url = json.loads(line)["url"]

    def ended(self) -> list[str]:
        """One sentence about each process that has ended."""
        return [
            f"the {role.name} (pid {role.process.pid}) ended with status {status}"
            for role in self.roles
            if (status := role.process.poll()) is not None
        ]

    def stop(self, timeout: float) -> None:
        """End every process, the last one first: SIGTERM, SIGKILL after `timeout`.

        Safe to call again.
        """
        for role in reversed(self.roles):
            if role.process.poll() is None:
                role.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + timeout
        for role in self.roles:
            try:
                role.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                role.process.kill()
                role.process.wait()
            for pipe in (role.process.stdin, role.process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()

    def _read_line(self, stream: IO[str], deadline: float) -> str:
        """One line; empty at the stream's end or the deadline."""
        lines: list[str] = []
        reader = threading.Thread(
            target=lambda: lines.append(stream.readline()), daemon=True
        )
        reader.start()
        while reader.is_alive() and time.monotonic() < deadline:
            reader.join(0.2)
            if self._stopped.is_set():
                raise Stopped
        return lines[0] if lines else ""
