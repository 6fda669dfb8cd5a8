"""Who runs when, and what comes of it: rows over the rounds, and ratios within them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

from prefillshare.bench.transfer.found import Found
from prefillshare.bench.transfer.settings import Load, Shape

Measure = Literal["gbps", "p50_us", "p99_us", "cpu_seconds_per_gb"]
MEASURES: tuple[Measure, ...] = ("gbps", "p50_us", "p99_us", "cpu_seconds_per_gb")


@dataclass
class Contestant:
    """One peer at one setting; `run` is a round of it, `rounds` what they found.

    `not_run` says why it has no figures.
    """

    peer: str
    settings: dict[str, Any]
    transport: str
    run: Callable[[int], list[Found]]
    rounds: list[list[Found]] = field(default_factory=list)
    not_run: str | None = None

    @property
    def label(self) -> str:
        """How tables name it."""
        return f"{self.peer}, {self.settings['name']}"


def turns(rounds: int, contestants: Sequence[Contestant]) -> Iterator[Contestant]:
    """All of them in every round, forwards and backwards by turns."""
    for number in range(rounds):
        yield from contestants if number % 2 == 0 else reversed(contestants)


def rows(contestants: Sequence[Contestant]) -> list[dict[str, Any]]:
    """A row for each contestant, shape, direction and load.

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
            load = {"load": first.load} if first.load else {}
            found.append(
                facts | shape | load | {"settings": each.settings} | _figures(series)
            )
    return found


def _figures(series: Sequence[Found]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    spread: dict[str, list[float]] = {}
    for name in (*MEASURES, "receiver_extra_bytes"):
        values = [v for each in series if (v := getattr(each, name)) is not None]
        if not values:
            continue
        low, middle, high = min(values), median(values), max(values)
        if name == "gbps":
            figures[name] = {"min": low, "median": middle, "max": high}
        else:
            figures[name], spread[name] = middle, [low, high]
    verified = [each.verified for each in series if each.verified is not None]
    figures["verified"] = all(verified) if verified else None
    return figures | {"spread": spread, "rounds": len(series)}


def ratios(contestants: Sequence[Contestant]) -> list[dict[str, Any]]:
    """Every setting of ours against every other contestant, round by round.

    A ratio above 1 is in our favour: more bits a second, or less delay, or less
    processor time. `other` "own contiguous" compares our shapes with one piece.
    """
    run = [each for each in contestants if each.not_run is None]
    found: list[dict[str, Any]] = []
    for ours in (each for each in run if each.peer == "prefillshare"):
        for other in run:
            if other is not ours:
                found += _between(ours, other)
        found += _own(ours)
    return found


def _between(ours: Contestant, other: Contestant) -> Iterator[dict[str, Any]]:
    for first in ours.rounds[0]:
        key = first.shape, first.load
        for measure in MEASURES:
            values = [
                _favour(measure, a, b)
                for mine, theirs in zip(ours.rounds, other.rounds, strict=True)
                if (a := _value(mine, key, measure))
                and (b := _value(theirs, key, measure))
            ]
            if values:
                yield _ratio(ours.label, other.label, key, measure, values)


def _own(ours: Contestant) -> Iterator[dict[str, Any]]:
    shapes: tuple[Shape, ...] = ("scattered", "small")
    for shape in shapes:
        key = shape, None
        values = [
            a / b
            for one in ours.rounds
            if (a := _value(one, key, "gbps"))
            and (b := _value(one, ("contiguous", None), "gbps"))
        ]
        if values:
            yield _ratio(ours.label, "own contiguous", key, "gbps", values)


def _value(
    found: Sequence[Found], key: tuple[Shape, Load | None], measure: Measure
) -> float | None:
    for each in found:
        if (each.shape, each.load, each.direction) == (*key, "write"):
            value: float | None = getattr(each, measure)
            return value
    return None


def _favour(measure: Measure, ours: float, theirs: float) -> float:
    return ours / theirs if measure == "gbps" else theirs / ours


def _ratio(
    ours: str,
    other: str,
    key: tuple[Shape, Load | None],
    measure: Measure,
    values: Sequence[float],
) -> dict[str, Any]:
    return {
        "ours": ours,
        "other": other,
        "shape": key[0],
        "load": key[1],
        "measure": measure,
        "ratio": {"min": min(values), "median": median(values), "max": max(values)},
        "by_round": list(values),
    }
