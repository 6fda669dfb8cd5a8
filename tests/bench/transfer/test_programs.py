"""Peers' programs: their lines, and what is said of those that cannot run."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from prefillshare.bench.transfer.programs import (
    PACKAGES,
    NotRun,
    interpreter,
    parse,
    run_program,
    script,
)
from prefillshare.bench.transfer.settings import TransferBenchSettings
from prefillshare.bench.transfer.specs import Program

MOONCAKE = Program(peer="mooncake")
SOCKET = Program(peer="socket", environment={"REP": "2"})

# As the shared module and a program of a folder of peers are written.
COMMON = """
import json, os, time
REP = int(os.environ["REP"])
def timed(run, n=REP): raise AssertionError("must be replaced")
def row(name, seconds, size, **more):
    print(json.dumps(dict(name=name, GBps=size / min(seconds) / 1e9, **more)))
def lat(name, run, n=500): raise AssertionError("must be replaced")
"""
PROGRAM = """
import subprocess, sys
from common import *
if sys.argv[1:] == ["target"]: sys.stdin.read(); sys.exit()
target = subprocess.Popen([sys.executable, __file__, "target"], stdin=subprocess.PIPE)
calls = []
seconds = timed(lambda: calls.append(1))
row("python socket 1 piece", seconds, 1000, verified=str(len(calls) == REP + 1))
lat("python socket 4KiB + ack", lambda: None)
target.stdin.close(); target.wait(); print("nonsense", len(calls))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "common.py").write_text(COMMON)
    (tmp_path / "socket_bench.py").write_text(PROGRAM)
    return tmp_path


def test_lines_are_read_and_others_passed_over() -> None:
    lines = [
        {"name": "mooncake tcp write 1 piece", "GBps": 2.0, "verified": "True"},
        {"name": "mooncake tcp write 16384x64KiB (batches of 512)", "GBps": 1.0},
        {"name": "nixl ucx[tcp] read 1 piece", "GBps": 0.5, "verified": "False"},
        {"name": "nixl ucx[tcp] write 4KiB", "p50_us": 30.0, "p99_us": 40.0},
        {"name": "iperf3 -n 4G, 1 stream", "GBps": 3.0},
        {"name": "memcpy 1 GiB (numpy copyto)", "GBps": 9.0},
    ]
    lines[0] |= {"payload": 10**9, "repetitions": 2, "cpu_seconds": 3.0}
    text = "noise\n[1]\n" + "\n".join(map(json.dumps, lines))
    first, second, third, delay = parse(text)
    assert (first.shape, first.gbps, first.verified) == ("contiguous", 16.0, True)
    assert first.cpu_seconds_per_gb == 1.5
    assert (second.shape, second.verified) == ("scattered", None)
    assert (third.direction, third.verified) == ("read", False)
    assert (delay.shape, delay.case, delay.p99_us) == ("latency", "idle", 40.0)


def test_a_program_is_run_with_its_clocked_part_measured(folder: Path) -> None:
    path = folder / "socket_bench.py"
    found = run_program(Path(sys.executable), path, SOCKET, timeout=60)
    piece, *delays = found
    assert piece.verified and piece.cpu_seconds_per_gb is not None
    assert piece.extra_bytes is not None
    assert [one.case for one in delays] == ["idle", "caller", "neighbour"]


def test_lines_before_a_failure_are_kept_and_without_any_it_says_why(
    folder: Path,
) -> None:
    path = folder / "socket_bench.py"
    path.write_text(PROGRAM + "raise SystemExit('iperf3 is missing')\n")
    assert len(run_program(Path(sys.executable), path, SOCKET, 60)) == 4
    path.write_text("raise SystemExit('no such device')\n")
    with pytest.raises(NotRun, match="status 1: no such device"):
        run_program(Path(sys.executable), path, SOCKET, 60)


def test_a_program_that_takes_too_long_is_told(folder: Path) -> None:
    """Its interpreter alone takes longer to start."""
    path = folder / "socket_bench.py"
    with pytest.raises(NotRun, match=r"did not end within 0\.001 s"):
        run_program(Path(sys.executable), path, SOCKET, 0.001)


def test_a_target_that_was_left_behind_is_ended(folder: Path) -> None:
    path, told = folder / "socket_bench.py", folder / "pid"
    path.write_text(
        "import subprocess, sys\n"
        "command = [sys.executable, '-c', 'import signal; signal.pause()']\n"
        "child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=-3)\n"
        f"open({str(told)!r}, 'w').write(str(child.pid))\n"
        "sys.stdout.flush()\n"
        "import os; os._exit(1)\n"
    )
    with pytest.raises(NotRun, match="status 1"):
        run_program(Path(sys.executable), path, SOCKET, 60)
    state = Path(f"/proc/{told.read_text()}/stat")
    while state.exists() and _state(state) not in ("Z", "X"):
        os.sched_yield()


def _state(path: Path) -> str:
    try:
        return path.read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def test_what_is_missing_is_said(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = TransferBenchSettings()
    with pytest.raises(NotRun, match="--peers FOLDER"):
        script(none, MOONCAKE)
    settings = TransferBenchSettings(peers=folder, pythons={"nixl": tmp_path / "no"})
    assert script(settings, SOCKET) == folder / "socket_bench.py"
    with pytest.raises(NotRun, match=r"no mooncake_bench\.py"):
        script(settings, MOONCAKE)
    monkeypatch.setitem(PACKAGES, "mooncake", "no.such.package")
    remedy = r"cannot import no\.such.*name another with --set pythons\.mooncake=PYTHON"
    with pytest.raises(NotRun, match=remedy):
        interpreter(settings, MOONCAKE)
    with pytest.raises(NotRun, match=r"pythons\.nixl cannot be executed"):
        interpreter(settings, Program(peer="nixl"))
    assert interpreter(settings, SOCKET) == Path(sys.executable)


def test_a_package_that_cannot_be_imported_is_said(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'ImportError: no libibverbs.so.1' >&2; exit 1\n")
    os.chmod(python, 0o755)
    settings = TransferBenchSettings(pythons={"mooncake": python})
    with pytest.raises(NotRun, match=r"mooncake\.engine: ImportError: no libib"):
        interpreter(settings, MOONCAKE)
