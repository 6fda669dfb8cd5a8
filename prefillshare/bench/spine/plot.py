"""The figures of the spine, drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from prefillshare.bench.plots import Panel, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def spine_plot(results: Mapping[str, Any]) -> Figure:
    """For each agent: when its first token came, and what its answers are worth."""
    return panels(
        [
            [_first_token(results, turn, agent), _accuracy(results, agent)]
            for turn, agent in enumerate(results["agents"])
        ]
    )


def _first_token(results: Mapping[str, Any], turn: int, agent: str) -> Panel:
    medians = {
        f"{system} prefill": (turns[turn], turns[turn], turns[turn])
        for system, turns in results["ttft_by_turn_seconds"].items()
    }
    return Panel(f"agent {turn + 1}: {agent}", "first token, s (median)", medians)


def _accuracy(results: Mapping[str, Any], agent: str) -> Panel:
    bars = {}
    for system, by_task in results["accuracy"].items():
        figures = by_task[agent]
        low, high = figures["ci"]["exact_match"]
        bars[system] = (100 * figures["exact_match"], 100 * low, 100 * high)
    return Panel(agent, "exact match, %", bars)
