"""The figures of the transfer benchmark, drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prefillshare.bench.plots import Panel, panels
from prefillshare.bench.transfer.specs import ONE_CORE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
_RATES = ("contiguous", "scattered", "small")


def transfer_plot(results: Mapping[str, Any]) -> Figure:
    """Writes: rates of each shape, and the p99 of small ones, with their ranges."""
    rows = [
        row
        for row in results["rows"]
        if "not_run" not in row
        and row["direction"] == "write"
        and row["peer"] not in ONE_CORE
    ]
    made = [_rates(rows, shape) for shape in _RATES] + [_delays(rows)]
    drawn = [panel for panel in made if panel.bars]
    return panels([[panel] for panel in drawn or made[:1]])


def _rates(rows: Sequence[Row], shape: str) -> Panel:
    bars = {
        _label(row): _gigabytes(row["gbps"])
        for row in rows
        if row["shape"] == shape and "gbps" in row
    }
    return Panel(shape, "GB/s", bars)


def _gigabytes(gbps: Mapping[str, float]) -> tuple[float, float, float]:
    return gbps["median"] / 8, gbps["min"] / 8, gbps["max"] / 8


def _delays(rows: Sequence[Row]) -> Panel:
    bars = {}
    for row in rows:
        if row["shape"] == "latency" and "p99_us" in row:
            low, high = row["spread"]["p99_us"]
            bars[f"{_label(row)}, {row['case']}"] = (row["p99_us"], low, high)
    title = "latency of small writes with notification"
    return Panel(title, "p99, µs", bars, magnitudes=True)


def _label(row: Row) -> str:
    return f"{row['peer']}, {row['settings']['name']}"
