"""The processes of a measurement, which take orders as lines of JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from prefillshare.bench.transfer import decode
from prefillshare.errors import PrefillShareError
from prefillshare.lifeline import LIFELINE_VARIABLE

Facts = dict[str, Any]


class Ask(Protocol):
    """Gives an order to a worker, and returns what it found."""

    def __call__(self, order: str, **arguments: Any) -> Facts: ...


class Child:
    """A worker process; `PrefillShareError` if it ends or an order fails."""

    def __init__(self, role: str, errors: IO[str]) -> None:
        command = [sys.executable, "-m", "prefillshare.bench.transfer.worker", role]
        self._role, self._errors = role, errors
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment(),
        )

    def __call__(self, order: str, **arguments: Any) -> Facts:
        asked, answers = self._process.stdin, self._process.stdout
        assert asked is not None and answers is not None
        try:
            asked.write(json.dumps([order, arguments]) + "\n")
            asked.flush()
            line = answers.readline()
        except BrokenPipeError:
            line = ""
        found: Facts = json.loads(line) if line else {"error": self._last_words()}
        if "error" in found:
            raise PrefillShareError(
                f"the {self._role} could not {order}: {found['error']}"
            )
        return found

    def _last_words(self) -> str:
        status = self._process.wait()
        self._errors.seek(0)
        return f"it ended with status {status}:\n{self._errors.read()[-2000:]}"

    def close(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        self._process.wait()


@contextmanager
def workers(*roles: str) -> Iterator[list[Ask]]:
    """Fresh processes, one of each role, which end with the context."""
    with ExitStack() as stack:
        children: list[Ask] = []
        for role in roles:
            log = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8"))
            child = Child(role, log)
            stack.callback(child.close)
            children.append(child)
        yield children


@contextmanager
def started(command: list[str]) -> Iterator[str]:
    """Runs a process of this project; the address that it announces.

    It ends with the context, and when this process is killed. Raises
    `PrefillShareError` if it does not start.
    """
    with subprocess.Popen(
        [sys.executable, "-m", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment() | {LIFELINE_VARIABLE: "1"},
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                name = " ".join(command[:3])
                raise PrefillShareError(f"{name} did not start; its output says why")
            yield str(json.loads(line)["url"])
        finally:
            process.stdin.close()
            process.wait()


@contextmanager
def neighbour() -> Iterator[None]:
    """A decode-like loop in another process, running before the context begins."""
    with subprocess.Popen(
        [sys.executable, str(Path(decode.__file__))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        try:
            process.stdout.readline()
            yield
        finally:
            process.stdin.close()
            process.wait()


def environment() -> dict[str, str]:
    """Of a child: threads for linear algebra would only take the other's core."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
