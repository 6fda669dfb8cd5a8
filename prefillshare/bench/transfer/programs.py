"""Peers' programs: whether they can run here, running them, reading their lines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from prefillshare.bench.transfer import timing
from prefillshare.bench.transfer.found import Found
from prefillshare.bench.transfer.settings import TransferBenchSettings
from prefillshare.bench.transfer.specs import Program, Shape

PACKAGES = {"socket": "numpy", "mooncake": "mooncake.engine", "nixl": "nixl_cu12"}


class NotRun(Exception):
    """Why there are no figures of a peer."""


def script(settings: TransferBenchSettings, program: Program) -> Path:
    """The program's file; `NotRun` if there is none."""
    if settings.peers is None:
        raise NotRun("no folder of peers' programs was given (--peers FOLDER)")
    path = settings.peers / f"{program.peer}_bench.py"
    if not path.is_file():
        raise NotRun(f"the folder of --peers has no {path.name}")
    return path


def interpreter(settings: TransferBenchSettings, program: Program) -> Path:
    """A Python that has the peer's package, by default this one.

    `NotRun` if it has not.
    """
    peer = program.peer
    python = settings.pythons.get(peer, Path(sys.executable))
    if not os.access(python, os.X_OK):
        raise NotRun(f"the interpreter of pythons.{peer} cannot be executed")
    done = subprocess.run(
        [str(python), "-c", f"import {PACKAGES[peer]}"],
        capture_output=True,
        text=True,
        env=variables(program),
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        remedy = f"; name another with --set pythons.{peer}=PYTHON"
        raise NotRun(f"its interpreter cannot import {PACKAGES[peer]}: {last}{remedy}")
    return python


def variables(program: Program) -> dict[str, str]:
    """The environment of a program: one transfer by the clock, and its own."""
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return {**os.environ, **threads, "REP": "1", **program.environment}


def run_program(
    python: Path, path: Path, program: Program, timeout: float
) -> list[Found]:
    """Run it once; `NotRun` if it fails before it has written anything verified.

    A program that fails later keeps the lines that it has printed.
    """
    with subprocess.Popen(
        [str(python), timing.__file__, str(path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=variables(program),
        # Its target must end with it, also when it takes too long.
        start_new_session=True,
    ) as process:
        try:
            out, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as error:
            raise NotRun(f"it did not end within {timeout:g} s") from error
        finally:
            _end_group(process.pid)
    found = parse(out)
    if not found:
        last = ([line for line in errors.splitlines() if line] or ["no message"])[-1]
        raise NotRun(f"it ended with status {process.returncode}: {last[:200]}")
    return found


def _end_group(number: int) -> None:
    try:
        os.killpg(number, signal.SIGKILL)
    except ProcessLookupError:
        return


def parse(text: str) -> list[Found]:
    """The figures in a program's output; other lines are passed over."""
    found = []
    for line in text.splitlines():
        try:
            facts = json.loads(line)
        except ValueError:
            continue
        if isinstance(facts, dict) and (one := _found(facts)) is not None:
            found.append(one)
    return found


def _found(facts: Mapping[str, Any]) -> Found | None:
    name = str(facts.get("name", ""))
    shape = _shape(name)
    if shape is None:
        return None
    direction: Literal["write", "read"] = "read" if " read " in name else "write"
    if shape == "latency":
        if "p50_us" not in facts:
            return None
        return Found(
            shape=shape,
            direction=direction,
            case=facts.get("while", "idle"),
            p50_us=facts["p50_us"],
            p99_us=facts["p99_us"],
        )
    if "GBps" not in facts:
        return None
    return Found(
        shape=shape,
        direction=direction,
        gbps=facts["GBps"] * 8,
        cpu_seconds_per_gb=_cpu(facts),
        extra_bytes=facts.get("extra_bytes"),
        verified=_truth(facts.get("verified")),
    )


def _shape(name: str) -> Shape | None:
    if "1 piece" in name:
        return "contiguous"
    if "x64KiB" in name:
        return "scattered"
    return "latency" if "4KiB" in name else None


def _cpu(facts: Mapping[str, Any]) -> float | None:
    if "cpu_seconds" not in facts:
        return None
    moved: float = facts["payload"] * facts["repetitions"] / 1e9
    return float(facts["cpu_seconds"]) / moved


def _truth(told: object) -> bool | None:
    """Some programs print a flag, others its name."""
    return None if told is None else str(told) == "True"
