"""Runs an untrusted program in a process that can do next to nothing.

What holds it: Landlock (files), a seccomp filter (everything else that the kernel
offers), resource limits, no capabilities, a scrubbed environment. All of these work
for any user, in containers too, and need nothing installed; where the kernel lacks
one, nothing is run. The program reads the interpreter and its libraries, writes in a
flat temporary folder, and is one process with one thread.

Whether it reached its end is told by a token that it is not given, so leaving early
or printing something does not pass. A program that takes its own interpreter apart to
find the token is not told from an honest one, nor is one whose results claim to equal
everything: tests that run in the same process cannot judge a program that attacks them.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pydantic import Field

from prefillshare.config import Config
from prefillshare.errors import SandboxError

_ROOT = Path(__file__).resolve().parents[3]
_START = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from prefillshare.tasks.sandbox.confined import main; main()"
)
_TICK_SECONDS = 0.05
_KEPT_CHARACTERS = 2000
_MAX_RESULT_BYTES = 4096
# An empty file costs about this much too.
_ENTRY_BYTES = 4096


class Limits(Config):
    """What one program may use.

    `file_bytes` bounds each file and what is printed; `scratch_bytes` bounds the
    temporary folder as a whole.
    """

    wall_seconds: float = Field(30.0, gt=0.0)
    cpu_seconds: int = Field(10, ge=1)
    memory_bytes: int = Field(2**30, ge=2**27)
    file_bytes: int = Field(2**20, ge=1)
    scratch_bytes: int = Field(2**23, ge=1)
    open_files: int = Field(32, ge=16)


@dataclass(frozen=True)
class Outcome:
    """`passed` if a program ran to its end; why, and the end of what it printed."""

    passed: bool
    reason: str
    output: str = ""


def run(program: str, limits: Limits) -> Outcome:
    """Run Python source text as `__main__`, confined.

    Hashes of strings are the same in every run, so sets are walked in the same order.

    Raises:
        SandboxError: this machine cannot confine a program; nothing was run.
    """
    require_sandbox()
    return _run(program, limits)


@functools.cache
def require_sandbox() -> None:
    """Try once, with a program of our own, whether the walls hold.

    Raises:
        SandboxError: the kernel lacks a protection or does not enforce it.
    """
    outcome = _run(_PROBE, Limits())
    if not outcome.passed:
        raise SandboxError(
            f"programs are not run here, since one was not held back: {outcome.output}"
            f"({outcome.reason}); evaluate on another machine"
        )


_PROBE = """
import os, socket

def write():
    with open("../outside", "w"):
        pass

attempts = {
    "a socket": socket.socket,
    "a process": os.fork,
    "a signal": lambda: os.kill(os.getppid(), 0),
    "a file outside": write,
    "a foreign folder": lambda: os.listdir("/"),
}
for name, attempt in attempts.items():
    try:
        attempt()
    except OSError:
        continue
    raise SystemExit(name + " was allowed ")
with open("inside", "w") as file:
    file.write("x")
"""


def _run(program: str, limits: Limits) -> Outcome:
    token = secrets.token_hex(16)
    with (
        tempfile.TemporaryDirectory(prefix="prefillshare-") as folder,
        tempfile.TemporaryFile() as request,
        tempfile.TemporaryFile() as printed,
        _pipe() as (answers, result),
    ):
        scratch = Path(folder, "scratch")
        scratch.mkdir()
        content = {
            "program": program,
            "token": token,
            "result": result,
            "scratch": str(scratch),
            "parent": os.getpid(),
            "limits": limits.model_dump(),
        }
        request.write(json.dumps(content).encode())
        request.seek(0)
        with _started(scratch, request, printed, result) as process:
            overrun = _wait(process, scratch, limits)
        lines = _read(answers).splitlines()
        return _judge(lines, token, overrun, process.returncode, _tail(printed))


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    """The reading end, which never blocks, and the writing end."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)


@contextlib.contextmanager
def _started(
    scratch: Path, request: IO[bytes], printed: IO[bytes], result: int
) -> Iterator[subprocess.Popen[bytes]]:
    """The confined interpreter, dead with its whole group on the way out.

    `-s -P` and an environment of our own isolate it as `-I` would, which would also
    ignore the hash seed.
    """
    if sys.platform != "linux":
        raise SandboxError(f"programs are confined on Linux only, not {sys.platform}")
    process = subprocess.Popen(
        [sys.executable, "-s", "-P", "-B", "-c", _START, str(_ROOT)],
        stdin=request,
        stdout=printed,
        stderr=subprocess.STDOUT,
        cwd=scratch,
        env=_environment(scratch),
        pass_fds=(result,),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _environment(scratch: Path) -> dict[str, str]:
    return {
        "PYTHONHASHSEED": "0",
        "LC_ALL": "C.UTF-8",
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        # NumPy's libraries start threads otherwise, which are refused.
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }


def _wait(
    process: subprocess.Popen[bytes], scratch: Path, limits: Limits
) -> str | None:
    """Waits for the end; why it must not be waited for any longer, if so."""
    deadline = time.monotonic() + limits.wall_seconds
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_TICK_SECONDS)
            return None
        if time.monotonic() > deadline:
            return f"ran for more than {limits.wall_seconds:g} s"
        if _bytes_in(scratch) > limits.scratch_bytes:
            return f"left more than {limits.scratch_bytes} bytes in its folder"


def _bytes_in(folder: Path) -> int:
    total = 0
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):
            size = entry.stat(follow_symlinks=False).st_size
            total += max(size, _ENTRY_BYTES)
    return total


def _read(answers: int) -> str:
    try:
        return os.read(answers, _MAX_RESULT_BYTES).decode(errors="replace")
    except BlockingIOError:
        return ""


def _tail(printed: IO[bytes]) -> str:
    printed.seek(0)
    return printed.read().decode(errors="replace")[-_KEPT_CHARACTERS:]


def _judge(
    lines: list[str], token: str, overrun: str | None, status: int, output: str
) -> Outcome:
    first = lines[0] if lines else ""
    if first.startswith(f"refused {token} "):
        raise SandboxError(
            f"programs are not run here: {first.split(maxsplit=2)[2]}; use Linux 5.13 "
            "or newer with Landlock and seccomp filters, on x86_64 or aarch64"
        )
    if overrun is not None:
        return Outcome(False, overrun, output)
    if first != f"ready {token}":
        raise SandboxError(
            f"the confined interpreter ended with status {status} before it was "
            f"confined; nothing was run. It printed: {output}"
        )
    if lines[1:] == [f"passed {token}"] and status == 0:
        return Outcome(True, "passed", output)
    if status < 0:
        return Outcome(False, f"killed by {signal.Signals(-status).name}", output)
    return Outcome(False, f"left with status {status} before its end", output)
