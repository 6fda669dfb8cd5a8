"""The page of the transfer benchmark, `docs/results/transfer.md`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prefillshare.bench.markdown import opening, table
from prefillshare.bench.transfer.method import method
from prefillshare.bench.transfer.verdicts import ratio_lines, target_lines

Row = Mapping[str, Any]

_LOADS = {
    "idle": "nothing else",
    "neighbour": "a decode loop in another process",
    "caller": "a decode loop in a thread of the caller",
}


_RATIOS = (
    "Of one round each, then the median (min–max) over the rounds; above 1 is in "
    "favour of the first named. Won or lost: in every round.\n"
)


def transfer_page(
    results: Mapping[str, Any],
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    command: str,
    note: str = "",
) -> str:
    """Markdown with every figure of the run, who won what, and how it was measured."""
    rows = results["rows"]
    title = "The transfer engine beside sockets and other engines"
    parts = [
        *opening(title, config, environment, _public(command, config), note),
        *_interpreters(config),
        "## Rates\n",
        _rates([row for row in rows if "gbps" in row and row["direction"] == "write"]),
        *_reads([row for row in rows if "gbps" in row and row["direction"] == "read"]),
        "## Delay of one small write, until it is known to have arrived\n",
        _delays([row for row in rows if "p50_us" in row]),
        *_not_run([row for row in rows if "not_run" in row]),
        "## Ratios\n",
        _RATIOS,
        *ratio_lines(results["ratios"], config),
        "## Targets\n",
        *target_lines(results["ratios"], config),
        "\n## Settings\n",
        *_settings(config),
        "\n## How it was measured\n",
        method(config),
    ]
    return "\n".join(parts)


def _public(command: str, config: Mapping[str, Any]) -> str:
    """The command without what is only true of one machine's folders."""
    for peer, python in sorted(config["pythons"].items()):
        command = command.replace(str(python), f"{peer.upper()}_PYTHON")
    if config["peers"] is not None:
        command = command.replace(str(config["peers"]), "FOLDER")
    return command


def _interpreters(config: Mapping[str, Any]) -> Iterator[str]:
    if config["peers"] is not None:
        yield (
            "FOLDER holds the peers' programs, and `PEER_PYTHON` is the interpreter "
            "of an environment with that peer's package: "
            "`mooncake-transfer-engine-non-cuda`, `nixl-cu12`.\n"
        )


def _rates(rows: Sequence[Row]) -> str:
    columns = ["shape", "peer", "setting", "GB/s, median (min–max)", "Gbit/s"]
    columns += ["CPU s per GB (min–max)", "receiver's extra memory, MiB", "verified"]
    return table(columns, map(_rate, _by_shape(rows)))


def _reads(rows: Sequence[Row]) -> Iterator[str]:
    if rows:
        yield "Peers' reads, which are not compared with anything:\n"
        yield _rates(rows)


def _by_shape(rows: Sequence[Row]) -> list[Row]:
    order = ["contiguous", "scattered", "small", "latency"]
    return sorted(rows, key=lambda row: order.index(row["shape"]))


def _rate(row: Row) -> list[str]:
    rate = row["gbps"]
    low, middle, high = (rate[each] / 8 for each in ("min", "median", "max"))
    extra = row.get("receiver_extra_bytes")
    return [
        row["shape"],
        row["peer"],
        row["settings"]["name"],
        f"{middle:.2f} ({low:.2f}–{high:.2f})",
        f"{rate['median']:.1f}",
        _spread(row, "cpu_seconds_per_gb", ".2f"),
        "–" if extra is None else f"{extra / 2**20:,.1f}",
        _verified(row["verified"]),
    ]


def _verified(verified: bool | None) -> str:
    return "not looked at" if verified is None else "yes" if verified else "**no**"


def _spread(row: Row, name: str, form: str) -> str:
    if name not in row:
        return "–"
    low, high = row["spread"][name]
    return f"{row[name]:{form}} ({low:{form}}–{high:{form}})"


def _delays(rows: Sequence[Row]) -> str:
    order = list(_LOADS)
    ordered = sorted(rows, key=lambda row: order.index(row["load"]))
    columns = ["beside it runs", "peer", "setting", "direction"]
    columns += ["p50, µs (min–max)", "p99, µs (min–max)"]
    return table(columns, map(_delay, ordered))


def _delay(row: Row) -> list[str]:
    return [
        _LOADS[row["load"]],
        row["peer"],
        row["settings"]["name"],
        row["direction"],
        _spread(row, "p50_us", ".0f"),
        _spread(row, "p99_us", ".0f"),
    ]


def _not_run(rows: Sequence[Row]) -> Iterator[str]:
    if rows:
        yield "## Not run\n"
        yield from (
            f"- {row['peer']}, {row['settings']['name']}: not run: {row['not_run']}"
            for row in rows
        )
        yield ""


def _settings(config: Mapping[str, Any]) -> Iterator[str]:
    for ours in config["ours"]:
        told = _told(ours, ("streams", "slice_bytes"))
        sealed = "slices sealed, TLS" if ours["encrypted"] else "slices with checksums"
        agent = "; by an agent at each end" if ours["agent"] else ""
        yield f"- prefillshare, {ours['name']}: {sealed}; {told}{agent}"
    for bare in config["sockets"]:
        told = _told(bare, ("streams", "call_bytes", "buffer_bytes"))
        yield f"- socket, {bare['name']}: no checksums; {told}"
    for program in config["programs"]:
        variables = program["environment"].items()
        told = ", ".join(f"`{key}={value}`" for key, value in variables)
        yield f"- {program['peer']}, {program['name']}: {told or 'as it comes'}"


def _told(settings: Mapping[str, Any], names: Sequence[str]) -> str:
    values = ((name, settings[name]) for name in names)
    return ", ".join(f"{n} {'by default' if v is None else v}" for n, v in values)
