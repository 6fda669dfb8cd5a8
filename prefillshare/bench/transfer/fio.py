"""fio on a file of the same size: what the disk gives to whoever asks it like that."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefillshare.bench.transfer.files import NAME, room
from prefillshare.bench.transfer.found import Found
from prefillshare.bench.transfer.programs import NotRun
from prefillshare.bench.transfer.settings import TransferBenchSettings
from prefillshare.bench.transfer.specs import Fio
from prefillshare.transfer.base import Access

_ACCESSES: tuple[Access, ...] = ("write", "read")


def find_fio() -> str:
    """The program; `NotRun` if it is not there."""
    if (found := shutil.which("fio")) is None:
        raise NotRun("fio is not installed; on Debian: apt-get install fio")
    return found


def command(path: str, size: int, spec: Fio, access: Access, direct: bool) -> list[str]:
    """fio's arguments: one job, asynchronous calls, a sync at the end of writing."""
    return [
        f"--name={NAME}",
        f"--filename={path}",
        f"--size={size}",
        f"--rw={access}",
        f"--bs={spec.block_bytes}",
        "--ioengine=libaio",
        f"--iodepth={spec.depth}",
        f"--direct={int(direct)}",
        f"--end_fsync={int(access == 'write')}",
        "--output-format=json",
    ]


def run_fio(settings: TransferBenchSettings, spec: Fio, number: int) -> list[Found]:
    """As the engine: one write to warm up, then one over it, then one read.

    Raises `NotRun` if fio is not there or fails.
    """
    program = find_fio()
    with room(settings) as folder:
        path = folder / NAME
        direct = _takes_direct(path)
        _run(program, settings, path, spec, "write", direct)
        return [
            _run(program, settings, path, spec, access, direct) for access in _ACCESSES
        ]


def _takes_direct(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600))
    except OSError:
        return False
    return True


def _run(
    program: str,
    settings: TransferBenchSettings,
    path: Path,
    spec: Fio,
    access: Access,
    direct: bool,
) -> Found:
    arguments = command(str(path), settings.total_bytes, spec, access, direct)
    try:
        done = subprocess.run(
            [program, *arguments],
            capture_output=True,
            text=True,
            timeout=settings.timeout_seconds,
        )
    except subprocess.TimeoutExpired as error:
        raise NotRun(f"fio did not end in {settings.timeout_seconds:g} s") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise NotRun(f"fio ended with status {done.returncode}: {last}")
    return found_in(done.stdout, access, direct)


def found_in(text: str, access: Access, direct: bool) -> Found:
    """The rate in fio's output, with the time of the sync in it."""
    # Warnings may come first.
    job: Mapping[str, Any] = json.loads(text[text.index("{") :])["jobs"][0]
    size, seconds = job[access]["io_bytes"], job["job_runtime"] / 1e3
    share = (job["usr_cpu"] + job["sys_cpu"]) / 100
    return Found(
        shape="sequential",
        direction=access,
        gbps=size * 8 / seconds / 1e9,
        cpu_seconds_per_gb=share * seconds / size * 1e9,
        direct=direct,
    )
