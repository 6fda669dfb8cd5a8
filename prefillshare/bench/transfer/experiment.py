"""The transfer benchmark: ours and others take turns, each time in fresh processes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from prefillshare.bench.transfer.found import Found
from prefillshare.bench.transfer.pair import run_pair
from prefillshare.bench.transfer.programs import (
    NotRun,
    interpreter,
    run_program,
    script,
)
from prefillshare.bench.transfer.rounds import Contestant, ratios, rows, turns
from prefillshare.bench.transfer.settings import (
    Bare,
    Ours,
    Program,
    TransferBenchSettings,
)
from prefillshare.errors import PrefillShareError
from prefillshare.report import progress


def run_transfer(settings: TransferBenchSettings) -> dict[str, Any]:
    """Measure everybody; `rows`, `ratios`, and each round's figures.

    A peer that cannot run, or fails, has a row that says why. Raises
    `PrefillShareError` if ours or the bare socket fails, or delivers other bytes.
    """
    contestants = entrants(settings)
    running = [each for each in contestants if each.not_run is None]
    with progress("measuring", settings.rounds * len(running), every=1) as tick:
        for each in turns(settings.rounds, running):
            _turn(each)
            tick(f"{each.label}: {each.not_run or _note(each.rounds[-1])}")
    measurements = [
        {"contestant": each.label, "round": number} | one.model_dump(exclude_none=True)
        for each in contestants
        for number, found in enumerate(each.rounds)
        for one in found
    ]
    return {
        "rows": rows(contestants),
        "ratios": ratios(contestants),
        "measurements": measurements,
    }


def entrants(settings: TransferBenchSettings) -> list[Contestant]:
    """All contestants; of peers that cannot run it is known why."""
    found = [_pair("prefillshare", settings, each) for each in settings.ours]
    found += [_pair("socket", settings, each) for each in settings.sockets]
    return found + [_program(settings, each) for each in settings.programs]


def _pair(peer: str, settings: TransferBenchSettings, spec: Ours | Bare) -> Contestant:
    transport = spec.transport if isinstance(spec, Ours) else "tcp"
    run = partial(run_pair, settings, spec)
    return Contestant(peer, spec.model_dump(exclude={"transport"}), transport, run)


def _program(settings: TransferBenchSettings, program: Program) -> Contestant:
    facts = program.model_dump(exclude={"peer"})
    made = Contestant(program.peer, facts, "tcp", lambda number: [])
    try:
        path, python = script(settings, program), interpreter(settings, program)
    except NotRun as error:
        made.not_run = str(error)
        return made
    made.run = partial(_run, python, path, program, settings.timeout_seconds)
    return made


def _run(
    python: Path, path: Path, program: Program, timeout: float, number: int
) -> list[Found]:
    return run_program(python, path, program, timeout)


def _turn(each: Contestant) -> None:
    if each.not_run is not None:
        return
    try:
        found = each.run(len(each.rounds))
    except NotRun as error:
        each.not_run = str(error)
        return
    if any(one.verified is False for one in found):
        shapes = [one.shape for one in found if one.verified is False]
        what = f"other bytes arrived than were sent ({', '.join(shapes)})"
        if (
            each.peer in ("prefillshare", "socket")
            and "environment" not in each.settings
        ):
            raise PrefillShareError(f"{each.label}: {what}; its figures mean nothing")
        each.not_run = what
        return
    if each.rounds and _keys(found) != _keys(each.rounds[0]):
        each.not_run = "it printed other figures in one round than in the first"
        return
    each.rounds.append(found)


def _keys(found: list[Found]) -> list[tuple[str, ...]]:
    return [(one.shape, one.direction, one.load or "") for one in found]


def _note(found: list[Found]) -> str:
    rates = [f"{one.shape} {one.gbps / 8:.2f}" for one in found if one.gbps]
    return ", ".join(rates) + " GB/s"
