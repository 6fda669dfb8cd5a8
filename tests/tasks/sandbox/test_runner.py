"""The sandbox lets an honest program through and holds hostile ones."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from prefillshare.tasks.sandbox.runner import Limits, run

# Writes what a verdict could look like wherever it can.
FORGERY = """
import os
for fd in range(32):
    try:
        os.write(fd, b'ready\\npassed 0\\n')
    except OSError:
        pass
os._exit(0)
"""
pytestmark = pytest.mark.usefixtures("sandbox")


def failure_of(program: str, limits: Limits | None = None) -> str:
    """Why the program did not pass, and what it printed."""
    outcome = run(program, limits or Limits())
    assert not outcome.passed
    return f"{outcome.reason}\n{outcome.output}"


@pytest.mark.parametrize(
    "program",
    [
        "import collections, hashlib, math, random, re\nassert hashlib.md5(b'x')",
        "import tempfile\nwith tempfile.TemporaryFile() as file:\n    file.write(b'x')",
        "import numpy\nassert numpy.linalg.inv(numpy.eye(2)).sum() == 2",
        "import dataclasses\n@dataclasses.dataclass\nclass A:\n    x: int\nassert A(1)",
        "try:\n    input()\nexcept EOFError:\n    pass\nelse:\n    raise SystemExit",
    ],
)
def test_an_honest_program_passes(program: str) -> None:
    outcome = run(program, Limits())
    assert outcome.passed, outcome


def test_a_string_hashes_the_same_in_every_run() -> None:
    program = "raise SystemExit(str(hash('a string')))"
    assert failure_of(program) == failure_of(program)


@pytest.mark.parametrize(
    "program",
    [
        "import sys\nsys.exit(0)",
        "import os\nos._exit(0)",
        "raise SystemExit",
        "print('passed')\nimport os\nos._exit(0)",
        FORGERY,
        "import os, signal\nos._exit = lambda status: None\nraise SystemExit",
    ],
)
def test_leaving_before_the_end_does_not_pass(program: str) -> None:
    assert "left with status 0 before its end" in failure_of(program + "\nassert False")


def test_a_wrong_program_shows_why() -> None:
    assert "ZeroDivisionError" in failure_of("1 / 0")
    assert "SyntaxError" in failure_of("def (")


def test_nothing_can_be_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        address = server.getsockname()
        program = f"import socket\nsocket.create_connection({address!r})"
        assert "OSError" in failure_of(program)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert "OSError" in failure_of("import socket\nsocket.socketpair()")


@pytest.mark.parametrize(
    "action",
    [
        "open({0!r}, 'w')",
        "open({0!r}, 'a')",
        "os.open({0!r}, os.O_RDONLY | os.O_TRUNC)",
        "os.truncate({0!r}, 0)",
        "os.remove({0!r})",
        "os.rename({0!r}, 'mine')",
        "os.link({0!r}, 'mine')",
        "os.chmod({0!r}, 0o777)",
        "os.utime({0!r}, (0, 0))",
        "open({0!r} + '.new', 'x')",
        "os.mkdir({0!r} + '.new')",
    ],
)
def test_a_file_outside_cannot_be_changed(action: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    before = victim.stat()
    assert "OSError" in failure_of(_reports(action.format(str(victim))))
    assert victim.stat() == before
    assert victim.read_text() == "kept"
    assert list(tmp_path.iterdir()) == [victim]


@pytest.mark.parametrize(
    "action",
    [
        "open({0!r})",
        "os.listdir({1!r})",
        "os.symlink({0!r}, 'mine')",
        "open('/proc/self/environ')",
        f"open('/proc/{os.getpid()}/environ')",
        "open('/proc/self/mem', 'r+b')",
    ],
)
def test_nothing_foreign_can_be_read(action: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    found = failure_of(_reports(action.format(str(secret), str(tmp_path))))
    assert "OSError" in found


def _reports(action: str) -> str:
    return (
        f"import os\ntry:\n    {action}\n"
        "except OSError:\n    raise SystemExit('OSError')"
    )


@pytest.mark.parametrize(
    "action",
    [
        "os.fork()",
        "os.execv('/bin/true', ['true'])",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "os.kill(os.getppid(), 0)",
        "os.setsid()",
        "resource.setrlimit(resource.RLIMIT_CPU, (9, 9))",
        "resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (9, 9))",
        "os.memfd_create('m')",
        "fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())",
        "fcntl.ioctl(0, 0x5412, b'x')",
    ],
)
def test_a_process_keeps_to_itself(action: str) -> None:
    assert "OSError" in failure_of("import fcntl, resource\n" + _reports(action))


def test_no_privilege_is_left() -> None:
    # A privileged process opens files whatever their mode.
    create = "import os\nos.close(os.open('file', os.O_CREAT, 0))\n"
    assert "OSError" in failure_of(create + _reports("open('file')"))


def test_a_fork_bomb_is_one_process() -> None:
    program = "import os\nwhile True:\n    os.fork()"
    assert "Function not implemented" in failure_of(program)
    threads = "import threading\nthreading.Thread(target=print).start()"
    assert "can't start new thread" in failure_of(threads)


def test_the_environment_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "s3cret")
    found = failure_of("import os\nraise SystemExit(str(sorted(os.environ)))")
    assert "PYTHONHASHSEED" in found
    assert "SECRET" not in found


def test_memory_is_bounded() -> None:
    limits = Limits(memory_bytes=2**28)
    assert "MemoryError" in failure_of("x = bytearray(2**28)", limits)
    endless = "x = []\nwhile True:\n    x.append(bytearray(2**20))"
    assert "MemoryError" in failure_of(endless, limits)


def test_an_endless_loop_runs_out_of_cpu_time() -> None:
    limits = Limits(cpu_seconds=1)
    assert "killed by SIGXCPU" in failure_of("while True:\n    pass", limits)


def test_a_sleeper_runs_out_of_time() -> None:
    program = "import time\nwhile True:\n    time.sleep(1000)"
    limits = Limits(wall_seconds=0.5)
    assert "ran for more than 0.5 s" in failure_of(program, limits)


def test_a_gigabyte_of_print_is_bounded() -> None:
    limits = Limits(file_bytes=2**16)
    outcome = run("for _ in range(2**10):\n    print('x' * 2**20)", limits)
    assert not outcome.passed
    assert 0 < len(outcome.output) < 2**16


@pytest.mark.parametrize("content", ["'x' * 1000", "''"])
def test_the_folder_is_bounded(content: str) -> None:
    limits = Limits(scratch_bytes=2**20)
    program = (
        "import itertools\nfor i in itertools.count():\n"
        f"    with open(str(i), 'w') as file:\n        file.write({content})"
    )
    assert "in its folder" in failure_of(program, limits)


def test_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run("open('file', 'w').write('x')", Limits()).passed
    assert list(tmp_path.iterdir()) == []
    open_files = len(os.listdir("/proc/self/fd"))
    run("pass", Limits())
    assert len(os.listdir("/proc/self/fd")) == open_files
