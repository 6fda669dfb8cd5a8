"""The transfer benchmark: ours and others take turns, each time in fresh processes."""

from __future__ import annotations

from typing import Any

from prefillshare.bench.transfer.entrants import entrants
from prefillshare.bench.transfer.found import Found
from prefillshare.bench.transfer.programs import NotRun
from prefillshare.bench.transfer.ratios import ratios
from prefillshare.bench.transfer.rounds import Contestant, rows, turns
from prefillshare.bench.transfer.settings import TransferBenchSettings
from prefillshare.bench.transfer.targets import judged
from prefillshare.errors import PrefillShareError
from prefillshare.report import progress


def run_transfer(settings: TransferBenchSettings) -> dict[str, Any]:
    """Measure everybody; `rows`, `ratios`, `targets`, and each round's figures.

    A peer that cannot run, or fails, has a row that says why. Raises
    `PrefillShareError` if ours or the bare socket fails, or delivers other bytes.
    """
    contestants = entrants(settings)
    order = list(turns([each for each in contestants if each.not_run is None]))
    with progress("measuring", len(order), every=1) as tick:
        for each in order:
            _turn(each)
            tick(f"{each.label}: {each.not_run or _note(each.rounds[-1])}")
    measurements = [
        {"contestant": each.label, "round": number} | one.model_dump(exclude_none=True)
        for each in contestants
        for number, found in enumerate(each.rounds)
        for one in found
    ]
    against = ratios(contestants)
    return {
        "rows": rows(contestants),
        "ratios": against,
        "targets": judged(settings, against),
        "measurements": measurements,
    }


def _turn(each: Contestant) -> None:
    if each.not_run is not None:
        return
    try:
        found = each.run(len(each.rounds))
    except NotRun as error:
        each.not_run = str(error)
        return
    if wrong := [one.shape for one in found if one.verified is False]:
        what = f"other bytes arrived than were sent ({', '.join(wrong)})"
        if each.ours:
            raise PrefillShareError(f"{each.label}: {what}; its figures mean nothing")
        each.not_run = what
        return
    if not found or each.rounds and _keys(found) != _keys(each.rounds[0]):
        each.not_run = "it gave no figures, or others in one round than in the first"
        return
    each.rounds.append(found)


def _keys(found: list[Found]) -> list[tuple[str, ...]]:
    return [one.key for one in found]


def _note(found: list[Found]) -> str:
    told = [
        f"{one.shape} {one.gbps / 8:.2f} GB/s"
        if one.gbps
        else f"{one.shape} {one.p50_us or 0:,.0f} µs"
        for one in found
    ]
    return ", ".join(told)
