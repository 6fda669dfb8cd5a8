"""Who won, in words, and whether targets are met."""

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
    "extra_bytes": "memory",
}


def ratio_lines(ratios: Sequence[Row], config: Mapping[str, Any]) -> Iterator[str]:
    """Our first setting beside all others: wins and losses, then the table."""
    label = f"prefillshare, {config['ours'][0]['name']}"
    mine = [each for each in ratios if each["ours"] == label]
    yield f"Of {label}; those of the other settings are in the figures' file.\n"
    yield from _summary(mine)
    columns = ["shape", "measure", "beside", "ratio", "verdict"]
    yield table(columns, map(_cells, mine))


def _cells(row: Row) -> list[str]:
    cells = [named(row), MEASURES[row["measure"]], row["other"]]
    return [*cells, spread(row["ratio"]), verdict(row)]


def spread(ratio: Mapping[str, float]) -> str:
    """A ratio with its spread over the rounds."""
    return f"{ratio['median']:.2f} ({ratio['min']:.2f}–{ratio['max']:.2f})"


def named(row: Row) -> str:
    """The shape, and what tells it apart from others of it."""
    parts = [row["shape"], row["case"] or ""]
    if row["shape"] == "sequential":
        parts.append(row["direction"] or "")
    return ", ".join(part for part in parts if part)


def verdict(row: Row) -> str:
    """Won or lost only if every round says so."""
    ratio = row["ratio"]
    if ratio["min"] > 1:
        return "won"
    return "**lost**" if ratio["max"] < 1 else "even"


def _summary(mine: Sequence[Row]) -> Iterator[str]:
    kinds = ("socket", "mooncake", "nixl")
    peers = [each for each in mine if str(each["other"]).startswith(kinds)]
    for title, wanted in (("Won", "won"), ("Lost", "**lost**"), ("Even", "even")):
        told = [_short(each) for each in peers if verdict(each) == wanted]
        yield f"{title}: {'; '.join(told) or 'nothing'}.\n"


def _short(row: Row) -> str:
    what = f"{MEASURES[row['measure']]}, {named(row)}"
    return f"{what}, beside {row['other']} ({row['ratio']['median']:.2f})"


def summary(targets: Sequence[Row]) -> Iterator[str]:
    """How many targets are met, and which are not."""
    judged = [each for each in targets if each["met"] is not None]
    absent = sum(each["ratio"] is None for each in targets)
    if targets:
        met = sum(each["met"] for each in judged)
        yield f"Targets: {met} of {len(judged)} are met, {absent} were not measured.\n"
    if unmet := [each for each in judged if not each["met"]]:
        yield f"These are not met:\n\n{_table(unmet)}"


def target_lines(targets: Sequence[Row], part: str) -> Iterator[str]:
    """A table of the targets of a part of the page."""
    if mine := [each for each in targets if each["part"] == part]:
        yield _table(mine)


def _table(targets: Sequence[Row]) -> str:
    columns = ["measure", "of", "beside", "ratio", "aim", "verdict"]
    return table(columns, map(_target, targets))


def _target(row: Row) -> list[str]:
    cells = [f"{MEASURES[row['measure']]}, {named(row)}", row["ours"], row["other"]]
    if row["ratio"] is None:
        return [*cells, "–", _aim(row), "not measured"]
    told = {None: "stated", True: "met", False: "**not met**"}
    return [*cells, spread(row["ratio"]), _aim(row), told[row["met"]]]


def _aim(row: Row) -> str:
    if row["aim"] is None:
        return "–"
    if row["at_most"] is not None:
        return f"{row['aim']:g} to {row['at_most']:g}"
    return f"at least {row['aim']:g}"
