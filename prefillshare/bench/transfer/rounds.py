"""Who runs when, and rows over the rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, get_args

from prefillshare.bench.transfer.found import Found
from prefillshare.bench.transfer.specs import Measure

MEASURES: tuple[Measure, ...] = get_args(Measure)


@dataclass
class Contestant:
    """One peer at one setting; `run` is a round of it, `rounds` what they found.

    It takes part in the first `times` rounds. `not_run` says why it has no figures.
    Other bytes than were sent, of one that is `ours`, end the benchmark.
    """

    peer: str
    settings: dict[str, Any]
    transport: str
    run: Callable[[int], list[Found]]
    times: int = 1
    ours: bool = False
    rounds: list[list[Found]] = field(default_factory=list)
    not_run: str | None = None

    @property
    def label(self) -> str:
        """How tables name it."""
        return f"{self.peer}, {self.settings['name']}"


def turns(contestants: Sequence[Contestant]) -> Iterator[Contestant]:
    """All of them in every round of theirs, forwards and backwards by turns."""
    for number in range(max((each.times for each in contestants), default=0)):
        running = [each for each in contestants if number < each.times]
        yield from running if number % 2 == 0 else reversed(running)


def rows(contestants: Sequence[Contestant]) -> list[dict[str, Any]]:
    """A row for each contestant, shape, direction and case.

    Those that did not run have one row, with the reason under `not_run`.
    """
    found: list[dict[str, Any]] = []
    for each in contestants:
        facts: dict[str, Any] = {"peer": each.peer, "transport": each.transport}
        if each.not_run is not None:
            none = {"shape": None, "settings": each.settings, "not_run": each.not_run}
            found.append(facts | none)
            continue
        for i, first in enumerate(each.rounds[0]):
            series = [one[i] for one in each.rounds]
            shape = {"shape": first.shape, "direction": first.direction}
            case = {"case": first.case} if first.case else {}
            found.append(
                facts | shape | case | {"settings": each.settings} | _figures(series)
            )
    return found


def _figures(series: Sequence[Found]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    spread: dict[str, list[float]] = {}
    for name in MEASURES:
        values = [v for each in series if (v := getattr(each, name)) is not None]
        if not values:
            continue
        low, middle, high = min(values), median(values), max(values)
        if name == "gbps":
            figures[name] = {"min": low, "median": middle, "max": high}
        else:
            figures[name], spread[name] = middle, [low, high]
    figures["verified"] = _all([each.verified for each in series])
    first = series[0]
    if first.stages_us:
        figures["stages_us"] = {
            name: median(each.stages_us[name] for each in series)
            for name in first.stages_us
        }
    if first.limits:
        figures["limits"] = dict(first.limits)
    if first.direct is not None:
        figures["direct"] = _all([each.direct for each in series])
    return figures | {"spread": spread, "rounds": len(series)}


def _all(told: Sequence[bool | None]) -> bool | None:
    known = [each for each in told if each is not None]
    return all(known) if known else None
