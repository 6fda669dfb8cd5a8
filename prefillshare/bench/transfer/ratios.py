"""Ratios within one round: to others, to itself at another shape, to set values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

from prefillshare.bench.transfer.found import Found
from prefillshare.bench.transfer.rounds import Contestant
from prefillshare.bench.transfer.specs import Measure

Key = tuple[str, str, str]

COMPARED: tuple[Measure, ...] = ("gbps", "p50_us", "p99_us", "cpu_seconds_per_gb")
# A rate is compared with one's own at these other shapes.
OWN = {"own contiguous": ("scattered", "small"), "own grouped": ("small",)}
LIMITS: dict[Measure, str] = {
    "gbps": "the set rate",
    "p50_us": "the set delay",
    "p99_us": "the set delay",
    "extra_bytes": "the bound",
}


def ratios(contestants: Sequence[Contestant]) -> list[dict[str, Any]]:
    """Every setting of ours against every other contestant, round by round.

    A ratio above 1 is in our favour: more bits a second, or less delay, processor time
    or memory. `other` "own contiguous" and "own grouped" compare our shapes with each
    other; "the set rate", "the set delay" and "the bound" are what the emulator was set
    to, and what memory may be.
    """
    run = [each for each in contestants if each.not_run is None]
    found: list[dict[str, Any]] = []
    for ours in run:
        if ours.peer == "prefillshare":
            for other in run:
                if other is not ours:
                    found += _between(ours, other)
            found += _own(ours)
        found += _limited(ours)
    return found


def _between(ours: Contestant, other: Contestant) -> Iterator[dict[str, Any]]:
    for first in ours.rounds[0]:
        for measure in COMPARED:
            values = [
                _favour(measure, a, b)
                for mine, theirs in zip(ours.rounds, other.rounds, strict=False)
                if (a := _value(mine, first.key, measure))
                and (b := _value(theirs, first.key, measure))
            ]
            if values:
                yield _ratio(ours.label, other.label, first, measure, values)


def _own(ours: Contestant) -> Iterator[dict[str, Any]]:
    for name, shapes in OWN.items():
        base = (name.removeprefix("own "), "write", "")
        for first in ours.rounds[0]:
            values = [
                a / b
                for one in ours.rounds
                if first.shape in shapes
                and (a := _value(one, first.key, "gbps"))
                and (b := _value(one, base, "gbps"))
            ]
            if values:
                yield _ratio(ours.label, name, first, "gbps", values)


def _limited(each: Contestant) -> Iterator[dict[str, Any]]:
    for first in each.rounds[0]:
        for measure, limit in first.limits.items():
            values = [_value(one, first.key, measure) for one in each.rounds]
            # Memory may not have grown at all.
            against = [
                _favour(measure, max(value, 1e-9), limit)
                for value in values
                if value is not None
            ]
            if against:
                yield _ratio(each.label, LIMITS[measure], first, measure, against)


def _value(found: Sequence[Found], key: Key, measure: Measure) -> float | None:
    for each in found:
        if each.key == key:
            value: float | None = getattr(each, measure)
            return value
    return None


def _favour(measure: Measure, ours: float, theirs: float) -> float:
    return ours / theirs if measure == "gbps" else theirs / ours


def _ratio(
    ours: str, other: str, first: Found, measure: Measure, values: Sequence[float]
) -> dict[str, Any]:
    return {
        "ours": ours,
        "other": other,
        "shape": first.shape,
        "direction": first.direction,
        "case": first.case,
        "measure": measure,
        "ratio": {"min": min(values), "median": median(values), "max": max(values)},
        "by_round": list(values),
    }
