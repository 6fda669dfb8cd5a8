"""Who takes part, and why others do not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from prefillshare.bench.transfer.agents import agents_memory
from prefillshare.bench.transfer.checksum import run_checksum
from prefillshare.bench.transfer.cipher import run_cipher
from prefillshare.bench.transfer.copying import run_copying
from prefillshare.bench.transfer.delayed import check_link, delayed
from prefillshare.bench.transfer.engines import tcp_settings
from prefillshare.bench.transfer.files import run_files
from prefillshare.bench.transfer.fio import find_fio, run_fio
from prefillshare.bench.transfer.found import Found
from prefillshare.bench.transfer.handover import run_handover
from prefillshare.bench.transfer.pair import near
from prefillshare.bench.transfer.programs import (
    NotRun,
    interpreter,
    run_program,
    script,
)
from prefillshare.bench.transfer.rounds import Contestant
from prefillshare.bench.transfer.settings import TransferBenchSettings
from prefillshare.bench.transfer.specs import BULK, Bare, Fio, Ours, Program, Shape

OURS = "prefillshare"
PROGRAM_SHAPES: tuple[Shape, ...] = ("contiguous", "scattered", "latency")
Round = Callable[[int], list[Found]]


def entrants(settings: TransferBenchSettings) -> list[Contestant]:
    """Everybody who has a part in a shape that was asked for.

    Of those that cannot run here it is known why.
    """
    found: list[Contestant] = []
    for spec in settings.ours:
        found += _pairs(OURS, settings, spec)
        if spec.agent and "memory" in settings.shapes_of(spec):
            run = partial(agents_memory, settings, spec)
            found.append(_made(settings, OURS, _facts(spec), "tcp", run))
    for bare in settings.sockets:
        found += _pairs("socket", settings, bare)
    return [*found, *_alone(settings), *_programs(settings)]


def _facts(spec: Ours | Bare) -> dict[str, Any]:
    facts = spec.model_dump()
    if isinstance(spec, Ours):
        # What is left to the engine depends on the machine.
        facts["streams"] = tcp_settings(spec).streams
    return facts


def _pairs(
    peer: str, settings: TransferBenchSettings, spec: Ours | Bare
) -> list[Contestant]:
    """One over loopback, and one over delayed links, which take longer."""
    facts, shapes = _facts(spec), set(settings.shapes_of(spec))
    found = []
    if shapes & {*BULK, "latency"}:
        run = partial(near, settings, spec)
        found.append(_made(settings, peer, facts, "tcp", run))
    if "delayed" in shapes:
        run = partial(delayed, settings, spec)
        found.append(_made(settings, peer, facts, "tcp", run))
        found[-1].times = min(settings.slow_rounds, settings.rounds)
    return found


def _alone(settings: TransferBenchSettings) -> list[Contestant]:
    """Those without two ends of their own."""
    found, add = [], partial(_made, settings)
    if "contiguous" in settings.shapes:
        for cipher in settings.ciphers:
            run: Round = partial(run_cipher, settings, cipher)
            found.append(add("aes-gcm", cipher.model_dump(), "none", run))
        for checksum in settings.checksums:
            run = partial(run_checksum, settings, checksum)
            found.append(add("xxh3", checksum.model_dump(), "none", run))
    if "link" in settings.shapes:
        for link in settings.links:
            run = partial(check_link, settings, link)
            found.append(add("linkemu", link.model_dump(), "tcp", run))
    if "handover" in settings.shapes:
        run = partial(run_handover, settings)
        found.append(add(OURS, {"name": "mapped"}, "shm", run))
        run = partial(run_copying, settings)
        found.append(add("memcpy", {"name": "copied"}, "memory", run))
    if "sequential" in settings.shapes:
        run = partial(run_files, settings)
        found.append(add(OURS, {"name": "file"}, "file", run))
        found += [_fio(settings, each) for each in settings.fio]
    return found


def _programs(settings: TransferBenchSettings) -> list[Contestant]:
    asked = any(shape in settings.shapes for shape in PROGRAM_SHAPES)
    return [_program(settings, each) for each in settings.programs if asked]


def _program(settings: TransferBenchSettings, program: Program) -> Contestant:
    facts = program.model_dump(exclude={"peer"})
    made = _made(settings, program.peer, facts, "tcp", lambda number: [])
    made.times, made.ours = min(settings.slow_rounds, settings.rounds), False
    try:
        path, python = script(settings, program), interpreter(settings, program)
    except NotRun as error:
        made.not_run = str(error)
        return made
    made.run = partial(_run, settings, python, path, program)
    return made


def _run(
    settings: TransferBenchSettings,
    python: Path,
    path: Path,
    program: Program,
    number: int,
) -> list[Found]:
    found = run_program(python, path, program, settings.timeout_seconds)
    return [each for each in found if each.shape in settings.shapes]


def _fio(settings: TransferBenchSettings, spec: Fio) -> Contestant:
    run = partial(run_fio, settings, spec)
    made = _made(settings, "fio", spec.model_dump(), "file", run)
    made.ours = False
    try:
        find_fio()
    except NotRun as error:
        made.not_run = str(error)
    return made


def _made(
    settings: TransferBenchSettings,
    peer: str,
    facts: dict[str, Any],
    transport: str,
    run: Round,
) -> Contestant:
    return Contestant(peer, facts, transport, run, settings.rounds, ours=True)
