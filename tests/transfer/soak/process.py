"""A peer as a process, on the side of who orders."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
PEER = (sys.executable, "-m", "tests.transfer.soak.peer")
# Longer than any order may take.
ANSWER_SECONDS = 150.0


class Killed(Exception):
    """The process was killed before it answered."""


class Hung(Exception):
    """A process did not answer."""


class Process:
    """Takes orders from any thread; `log` is where its stderr goes."""

    def __init__(self, name: str, log: Path, command: Sequence[str] = PEER) -> None:
        self.name = name
        self._numbers = itertools.count(1)
        # None once no answer can come any more.
        self._asked: dict[int, Future[dict[str, Any]]] | None = {}
        self._lock = threading.Lock()
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=ROOT,
            )
        self._reader = threading.Thread(target=self._read, name=name)
        self._reader.start()

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """What it answers; `Killed`, or `AssertionError` if the order failed."""
        number, answer = next(self._numbers), Future[dict[str, Any]]()
        asked = self._process.stdin
        assert asked is not None
        with self._lock:
            # The kernel closes a dead process's output before its input: for a moment
            # what is written to it is taken, and never read.
            if self._asked is None:
                raise Killed(self.name)
            self._asked[number] = answer
            try:
                asked.write(json.dumps({"id": number, "do": do, **arguments}) + "\n")
                asked.flush()
            except (BrokenPipeError, ValueError):
                raise Killed(self.name) from None
        try:
            found = answer.result(ANSWER_SECONDS)
        except TimeoutError:
            raise Hung(f"{self.name}: {do} {arguments}: no answer") from None
        assert "failed" not in found, f"{self.name}: {do}: {found['failed']}"
        return found

    def tell_where(self) -> bool:
        """Have it write to its log what its threads are at; whether it lives."""
        self._process.send_signal(signal.SIGUSR1)
        return self._process.returncode is None

    def kill(self) -> None:
        """End it as the kernel does for want of memory."""
        self._process.kill()

    def close(self) -> None:
        """End it with its input, or by force."""
        assert self._process.stdin is not None
        # What was on its way to a process that was killed is lost.
        with self._lock, contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            with self._lock:
                assert self._asked is not None
                asked = self._asked.pop(answer.pop("id"))
            asked.set_result(answer)
        with self._lock:
            assert self._asked is not None
            unanswered, self._asked = list(self._asked.values()), None
        for asked in unanswered:
            asked.set_exception(Killed(self.name))
