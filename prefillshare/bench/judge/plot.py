"""The figures of the judge experiment, drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from prefillshare.bench.plots import Panel, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = {
    "accuracy": "right verdicts, %",
    "order_consistency": "the same answer in both orders, %",
    "both_right": "right in both orders, %",
    "flips": "verdicts unlike own prefill's, %",
}


def judge_plot(results: Mapping[str, Any]) -> Figure:
    """What every judge gets right and keeps to, with 95 % intervals."""
    made = [_panel(results["systems"], *each) for each in _SHOWN.items()]
    return panels([made[:2], made[2:]])


def _panel(systems: Mapping[str, Any], key: str, title: str) -> Panel:
    bars = {
        name: (
            100 * figures[key]["mean"],
            100 * figures[key]["low"],
            100 * figures[key]["high"],
        )
        for name, figures in systems.items()
    }
    return Panel(title, "%", bars)
