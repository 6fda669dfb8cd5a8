"""Tables of the transfer benchmark's page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefillshare.bench.markdown import table

Row = Mapping[str, Any]

LOADS = {
    "idle": "nothing else",
    "neighbour": "a decode loop in another process",
    "caller": "a decode loop in a thread of the caller",
}


def rates(rows: Sequence[Row]) -> str:
    """Bytes a second, and what they cost."""
    columns = ["shape", "peer", "setting", "GB/s, median (min–max)", "Gbit/s"]
    columns += ["CPU s per GB (min–max)", "receiver's extra memory, MiB", "verified"]
    order = ("contiguous", "scattered", "small", "grouped")
    ordered = sorted(rows, key=lambda row: order.index(row["shape"]))
    return table(columns, map(_rate, ordered))


def _rate(row: Row) -> list[str]:
    extra = row.get("extra_bytes")
    return [
        row["shape"],
        *_who(row),
        _speed(row),
        f"{row['gbps']['median']:.1f}",
        _spread(row, "cpu_seconds_per_gb", ".2f"),
        "–" if extra is None else f"{extra / 2**20:,.1f}",
        _verified(row["verified"]),
    ]


def ciphers(rows: Sequence[Row]) -> str:
    """Sealing and opening by themselves."""
    names = {"write": "seal", "read": "open"}
    columns = ["AES-256-GCM alone", "setting", "GB/s, median (min–max)", "CPU s per GB"]
    return table(
        columns,
        (
            [
                names[row["direction"]],
                row["settings"]["name"],
                _speed(row),
                _spread(row, "cpu_seconds_per_gb", ".2f"),
            ]
            for row in rows
        ),
    )


def checksums(rows: Sequence[Row]) -> str:
    """Checksums by themselves."""
    columns = ["xxh3 alone", "GB/s, median (min–max)", "CPU s per GB"]
    return table(
        columns,
        (
            [
                row["settings"]["name"],
                _speed(row),
                _spread(row, "cpu_seconds_per_gb", ".2f"),
            ]
            for row in rows
        ),
    )


def delays(rows: Sequence[Row]) -> str:
    """Of one small write after the other."""
    order = list(LOADS)
    ordered = sorted(rows, key=lambda row: order.index(row["case"]))
    columns = ["beside it runs", "peer", "setting", "direction"]
    columns += ["p50, µs (min–max)", "p99, µs (min–max)"]
    return table(columns, map(_delay, ordered))


def _delay(row: Row) -> list[str]:
    figures = [_spread(row, name, ",.0f") for name in ("p50_us", "p99_us")]
    return [LOADS[row["case"]], *_who(row), row["direction"], *figures]


def links(rows: Sequence[Row]) -> str:
    """Over delayed links."""
    columns = ["set rate", "peer", "setting", "Gbit/s, median (min–max)", "share of it"]
    columns.append("CPU s per GB, without the emulator")
    return table(columns, map(_link, rows))


def _link(row: Row) -> list[str]:
    share = row["gbps"]["median"] / row["limits"]["gbps"]
    return [
        row["case"],
        *_who(row),
        _gigabits(row, ".2f"),
        f"{share:.2f}",
        _spread(row, "cpu_seconds_per_gb", ".2f"),
    ]


def emulator(rows: Sequence[Row]) -> str:
    """What a link was set to, and what a bare socket found."""
    columns = ["link", "measure", "set", "found, median (min–max)"]
    limits = ((row, each) for row in rows for each in row["limits"].items())
    return table(columns, (_limit(row, *each) for row, each in limits))


def _limit(row: Row, measure: str, limit: float) -> list[str]:
    name = row["settings"]["name"]
    if measure == "gbps":
        return [name, "Gbit/s", f"{limit:.3f}", _gigabits(row, ".3f")]
    unit = {"p50_us": "p50, µs", "p99_us": "p99, µs"}[measure]
    return [name, unit, f"{limit:,.0f}", _spread(row, measure, ",.0f")]


def handovers(rows: Sequence[Row]) -> str:
    """From the last byte written on."""
    columns = ["until", "peer", "setting", "ms, median (min–max)", "memory, MiB"]
    columns.append("parts, ms")
    return table(columns, map(_handover, rows))


def _handover(row: Row) -> list[str]:
    low, high = (value / 1e3 for value in row["spread"]["p50_us"])
    stages = (f"{name} {us / 1e3:,.2f}" for name, us in row["stages_us"].items())
    return [
        row["case"],
        *_who(row),
        f"{row['p50_us'] / 1e3:,.2f} ({low:,.2f}–{high:,.2f})",
        f"{row['extra_bytes'] / 2**20:,.1f}",
        ", ".join(stages),
    ]


def files(rows: Sequence[Row]) -> str:
    """From the first byte of a file to its last."""
    columns = ["direction", "peer", "setting", "GB/s, median (min–max)"]
    columns += ["CPU s per GB (min–max)", "page cache", "verified"]
    ordered = sorted(rows, key=lambda row: str(row["direction"]), reverse=True)
    return table(
        columns,
        (
            [
                row["direction"],
                *_who(row),
                _speed(row),
                _spread(row, "cpu_seconds_per_gb", ".2f"),
                "passed by" if row["direct"] else "used",
                _verified(row["verified"]),
            ]
            for row in ordered
        ),
    )


def memories(rows: Sequence[Row]) -> str:
    """What agents had resident."""
    columns = ["setting", "whose", "most beyond its start, MiB (min–max)", "bound, MiB"]
    columns.append("GB/s meanwhile")
    return table(
        columns,
        (
            [
                row["settings"]["name"],
                row["case"],
                _spread(row, "extra_bytes", ",.2f", 2**20),
                f"{row['limits']['extra_bytes'] / 2**20:,.2f}",
                _speed(row),
            ]
            for row in rows
        ),
    )


def _who(row: Row) -> list[str]:
    return [row["peer"], row["settings"]["name"]]


def _speed(row: Row) -> str:
    low, middle, high = (row["gbps"][each] / 8 for each in ("min", "median", "max"))
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"


def _gigabits(row: Row, form: str) -> str:
    rate = row["gbps"]
    return f"{rate['median']:{form}} ({rate['min']:{form}}–{rate['max']:{form}})"


def _spread(row: Row, name: str, form: str, unit: float = 1.0) -> str:
    if name not in row:
        return "–"
    low, high = (value / unit for value in row["spread"][name])
    return f"{row[name] / unit:{form}} ({low:{form}}–{high:{form}})"


def _verified(verified: bool | None) -> str:
    return "not looked at" if verified is None else "yes" if verified else "**no**"
