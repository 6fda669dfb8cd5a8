"""Who won: ratios as tables, in words, and against their targets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prefillshare.bench.markdown import table

Row = Mapping[str, Any]

MEASURES = {
    "gbps": "rate",
    "p50_us": "p50 of delay",
    "p99_us": "p99 of delay",
    "cpu_seconds_per_gb": "CPU per GB",
}


def ratio_lines(ratios: Sequence[Row], config: Mapping[str, Any]) -> Iterator[str]:
    """A table for each of our settings, wins and losses named under the first."""
    for number, ours in enumerate(config["ours"]):
        label = f"prefillshare, {ours['name']}"
        mine = [each for each in ratios if each["ours"] == label]
        if not mine:
            continue
        yield f"### {label}\n"
        columns = ["shape", "measure", "beside", "ratio", "verdict"]
        yield table(columns, map(_cells, mine))
        if number == 0:
            yield from _summary(mine)


def _cells(row: Row) -> list[str]:
    ratio = row["ratio"]
    return [
        named(row),
        MEASURES[row["measure"]],
        row["other"],
        f"{ratio['median']:.2f} ({ratio['min']:.2f}–{ratio['max']:.2f})",
        verdict(row),
    ]


def named(row: Row) -> str:
    """The shape and, for delays, what ran beside."""
    return f"{row['shape']}, {row['load']}" if row["load"] else str(row["shape"])


def verdict(row: Row) -> str:
    """Won or lost only if every round says so."""
    ratio = row["ratio"]
    if ratio["min"] > 1:
        return "won"
    return "**lost**" if ratio["max"] < 1 else "even"


def _summary(mine: Sequence[Row]) -> Iterator[str]:
    peers = [each for each in mine if each["other"] != "own contiguous"]
    for title, wanted in (("Won", "won"), ("Lost", "**lost**"), ("Even", "even")):
        told = [_short(each) for each in peers if verdict(each) == wanted]
        yield f"{title}: {'; '.join(told) or 'nothing'}.\n"


def _short(row: Row) -> str:
    what = f"{MEASURES[row['measure']]}, {named(row)}"
    return f"{what}, beside {row['other']} ({row['ratio']['median']:.2f})"


def target_lines(ratios: Sequence[Row], config: Mapping[str, Any]) -> Iterator[str]:
    """Whether each target is met by the first of our settings, against each peer."""
    first = f"prefillshare, {config['ours'][0]['name']}"
    for target in config["targets"]:
        measured = [each for each in ratios if _meant(each, target, first)]
        wish = f"{target['shape']}, at least {target['ratio']:g} × {target['other']}"
        if not measured:
            yield f"- {wish}: not measured"
        for each in measured:
            middle = each["ratio"]["median"]
            met = "met" if middle >= target["ratio"] else "**not met**"
            yield f"- {wish}: {middle:.2f} beside {each['other']}, {met}"


def _meant(ratio: Row, target: Mapping[str, Any], ours: str) -> bool:
    measure = "p99_us" if target["shape"] == "latency" else "gbps"
    of = ratio["ours"], ratio["shape"], ratio["measure"]
    return of == (ours, target["shape"], measure) and bool(
        str(ratio["other"]).startswith(target["other"])
    )
