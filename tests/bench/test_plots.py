"""Plots of one step are bars; those of several are lines."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from prefillshare.bench.judge.plot import judge_plot
from prefillshare.bench.plots import Panel, curves, panels
from prefillshare.bench.spine.plot import spine_plot
from prefillshare.bench.training.plot import training_plot


def point(step: int, exact: float) -> dict[str, Any]:
    ends = {"lowest": exact - 0.1, "highest": exact + 0.1}
    return {"step": step, "exact_match": exact, "nll": 1 - exact, **ends}


def test_one_step_is_drawn_as_bars_in_the_order_of_the_table() -> None:
    left, right = curves(
        {"shipping": {"own": [point(25, 0.5)], "cached": [point(25, 0.25)]}}
    ).axes
    for axes, widths in ((left, [50.0, 25.0]), (right, [0.5, 0.75])):
        bars = [each for each in axes.patches if isinstance(each, Rectangle)]
        assert [bar.get_width() for bar in bars] == widths
        first, second = (bar.get_y() for bar in bars)
        assert axes.yaxis_inverted() and first < second
    assert [label.get_text() for label in left.get_yticklabels()] == ["own", "cached"]
    assert left.get_xlabel() == "exact match, %"


def test_several_steps_are_drawn_as_lines() -> None:
    points = [point(25, 0.5), point(50, 0.75)]
    left, right = curves({"shipping": {"own": points, "late": points[1:]}}).axes
    assert [len(line.get_xdata()) for line in left.lines] == [2, 1]  # type: ignore[arg-type]
    assert len(right.lines) == 2 and not right.patches


def test_no_line_joins_means_over_different_seeds() -> None:
    both, one = {"seeds": [0, 1]}, {"seeds": [0]}
    points = [point(25, 0.5) | both, point(50, 0.6) | both, point(75, 0.9) | one]
    left, right = curves({"shipping": {"own": points}}).axes
    for axes in (left, right):
        assert [len(line.get_xdata()) for line in axes.lines] == [2, 1]  # type: ignore[arg-type]
        assert len({line.get_color() for line in axes.lines}) == 1
    (label,) = left.get_legend().get_texts()  # type: ignore[union-attr]
    assert label.get_text() == "own"


def _trl(results: Any) -> Any:
    return next(row for row in results["rows"] if row["trainer"] == "trl")


RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"


@pytest.mark.parametrize(
    ("name", "plot", "label", "width"),
    [
        ("training", training_plot, "trl", lambda x: _trl(x)["tokens_per_second"]),
        (
            "judge",
            judge_plot,
            "own",
            lambda x: 100 * x["systems"]["own"]["accuracy"]["mean"],
        ),
        (
            "spine",
            spine_plot,
            "shared prefill",
            lambda x: x["ttft_by_turn_seconds"]["shared"][0],
        ),
    ],
)
def test_published_figures_are_drawn_as_they_are(
    name: str,
    plot: Callable[[Any], Figure],
    label: str,
    width: Callable[[Any], float],
) -> None:
    results = json.loads((RESULTS / f"{name}.json").read_text())["results"]
    axes = plot(results).axes[0]
    labels = [each.get_text() for each in axes.get_yticklabels()]
    bars = [each for each in axes.patches if isinstance(each, Rectangle)]
    assert len(bars) == len(labels)
    assert bars[labels.index(label)].get_width() == pytest.approx(width(results))


def test_values_of_other_magnitudes_are_points_on_a_logarithmic_scale() -> None:
    bars = {"socket": (20.0, 18.0, 27.0), "peer": (8000.0, 60.0, 40000.0)}
    (side,) = panels([[Panel("delay", "µs", bars, magnitudes=True)]]).axes
    assert side.get_xscale() == "log" and not side.patches
    (points, *_), *_ = side.containers
    assert list(points.get_xdata()) == [20.0, 8000.0]
