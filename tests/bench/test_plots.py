"""Plots of one step are bars; those of several are lines."""

from __future__ import annotations

from typing import Any

from matplotlib.patches import Rectangle

from prefillshare.bench.plots import curves


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
