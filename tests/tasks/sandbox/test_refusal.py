"""No program runs without every wall, or longer than somebody waits for it."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefillshare.errors import SandboxError
from prefillshare.tasks.sandbox import runner
from prefillshare.tasks.sandbox.runner import Limits, run

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.usefixtures("sandbox")


@pytest.fixture
def untried() -> Iterator[None]:
    """As if no program had been run here yet."""
    runner.require_sandbox.cache_clear()
    yield
    runner.require_sandbox.cache_clear()


KILLED_RUNNER = """
import subprocess
from prefillshare.tasks.sandbox import runner

def wait(process, scratch, _):
    while not (scratch / "running").exists():
        try:
            process.wait(0.01)
        except subprocess.TimeoutExpired:
            pass
    print(process.pid, flush=True)
    process.wait()

runner._wait = wait
program = "import time\\nopen('running', 'x')\\nwhile True:\\n    time.sleep(1000)"
runner._run(program, runner.Limits())
"""


def test_a_program_dies_with_its_runner() -> None:
    command = [sys.executable, "-c", KILLED_RUNNER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        confined = os.pidfd_open(int(process.stdout.readline()))
        process.kill()
    ended, _, _ = select.select([confined], [], [], 60)
    os.close(confined)
    assert ended


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        # What a kernel without these calls answers.
        ("landlock._CREATE_RULESET = 9999", "Landlock is refused by the kernel"),
        ("seccomp._SET_SECCOMP = 9999", "seccomp filter refused"),
        ("seccomp.platform.machine = lambda: 'vax'", "no list of system calls for vax"),
        # Protections that report success and hold nothing.
        ("seccomp.install = lambda: None", "a socket was allowed"),
        ("landlock.restrict = lambda *_: None", "a file outside was allowed"),
        ("raise RuntimeError('early')", "before it was confined"),
    ],
)
@pytest.mark.usefixtures("untried")
def test_without_a_wall_nothing_is_run(
    broken: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    imports = "from prefillshare.tasks.sandbox import landlock, seccomp; "
    path, rest = runner._START.split("; ", 1)
    monkeypatch.setattr(runner, "_START", f"{path}; {imports}{broken}; {rest}")
    with pytest.raises(SandboxError, match=message):
        run("pass", Limits())


@pytest.mark.usefixtures("untried")
def test_other_systems_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(SandboxError, match="Linux only, not darwin"):
        run("pass", Limits())
