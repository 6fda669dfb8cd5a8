"""The figures of the training benchmark, drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from prefillshare.bench.plots import Panel, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def training_plot(results: Mapping[str, Any]) -> Figure:
    """Speed and memory of every trainer: medians and ranges, a row for a scenario."""
    rows = results["rows"]
    scenarios = dict.fromkeys(row["scenario"] for row in rows)
    return panels(
        [
            [
                _panel(rows, scenario, "tokens_per_second", "data tokens per second"),
                _panel(rows, scenario, "peak_memory_bytes", "peak memory, GiB", 2**30),
            ]
            for scenario in scenarios
        ]
    )


def _panel(rows: Any, scenario: str, key: str, unit: str, divisor: int = 1) -> Panel:
    bars = {
        row["trainer"]: (
            row[key] / divisor,
            row["spread"][key][0] / divisor,
            row["spread"][key][1] / divisor,
        )
        for row in rows
        if row["scenario"] == scenario
    }
    return Panel(scenario, unit, bars)
