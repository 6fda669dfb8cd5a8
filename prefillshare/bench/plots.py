"""Plots of results, as files beside their page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefillshare.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def require_matplotlib() -> None:
    """Raise `ConfigError` if the plots could not be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "a page of results has plots, which need matplotlib: "
            "pip install -e '.[bench]' in a checkout"
        ) from error


# Of one test: by system, points over training.
Curves = Mapping[str, list[dict[str, Any]]]


def curves(tests: Mapping[str, Curves]) -> Figure:
    """Exact match and NLL over training steps; bars where there is one step only.

    Args:
        tests: by test and system, points of `step`, `exact_match`, `nll`, and
            `lowest` and `highest` exact match over seeds, which is drawn as a band. A
            line ends where the `seeds` of its points change.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2 * len(tests)), layout="constrained")
    grid = figure.subplots(len(tests), 2, squeeze=False)
    for (test, systems), (left, right) in zip(tests.items(), grid, strict=True):
        single = all(len(points) == 1 for points in systems.values())
        (_bars if single else _lines)(left, right, systems)
        # One title a row: long ones would run into each other.
        left.set_title(test, loc="left", fontsize="small")
    return figure


def _lines(left: Axes, right: Axes, systems: Curves) -> None:
    for number, (system, points) in enumerate(systems.items()):
        color = f"C{number}"
        for i, run in enumerate(_of_same_seeds(points)):
            steps = [point["step"] for point in run]
            exact = [100 * point["exact_match"] for point in run]
            name = None if i else system
            left.plot(steps, exact, marker="o", color=color, label=name)
            low, high = ([100 * p[end] for p in run] for end in ("lowest", "highest"))
            left.fill_between(steps, low, high, color=color, alpha=0.15)
            nll = [point["nll"] for point in run]
            right.plot(steps, nll, marker="o", color=color)
    left.set(xlabel="step", ylabel="exact match, %", ylim=(0, 100))
    right.set(xlabel="step", ylabel="NLL, nats/token", yscale="log")
    left.legend(fontsize="small")


def _of_same_seeds(
    points: Sequence[Mapping[str, Any]],
) -> Iterator[list[Mapping[str, Any]]]:
    """`points` cut where the seeds change: no line joins means over different ones."""
    for _, run in groupby(points, key=lambda point: point.get("seeds")):
        yield list(run)


def _bars(left: Axes, right: Axes, systems: Curves) -> None:
    names = list(systems)
    last = [points[0] for points in systems.values()]
    exact = [100 * point["exact_match"] for point in last]
    below = [100 * (p["exact_match"] - p["lowest"]) for p in last]
    above = [100 * (p["highest"] - p["exact_match"]) for p in last]
    left.barh(names, exact, xerr=[below, above])
    right.barh(names, [point["nll"] for point in last])
    left.set(xlabel="exact match, %", xlim=(0, 100))
    right.set(xlabel="NLL, nats/token", yticks=[])
    for side in (left, right):
        side.invert_yaxis()  # in the order of the tables


@dataclass(frozen=True)
class Panel:
    """Bars from zero: by label the value, and the ends of its interval or range.

    Values that are `magnitudes` apart are points on a logarithmic scale.
    """

    title: str
    unit: str
    bars: Mapping[str, tuple[float, float, float]]
    magnitudes: bool = False


def panels(grid: Sequence[Sequence[Panel]]) -> Figure:
    """Rows of panels, as many in each."""
    from matplotlib.figure import Figure

    height = sum(1 + 0.3 * max(len(panel.bars) for panel in row) for row in grid)
    figure = Figure(figsize=(9, height), layout="constrained")
    drawn = figure.subplots(len(grid), len(grid[0]), squeeze=False)
    for row, axes in zip(grid, drawn, strict=True):
        for panel, side in zip(row, axes, strict=True):
            _panel(side, panel)
    return figure


def _panel(side: Axes, panel: Panel) -> None:
    values = [value for value, _, _ in panel.bars.values()]
    below = [value - low for value, low, _ in panel.bars.values()]
    above = [high - value for value, _, high in panel.bars.values()]
    if panel.magnitudes:
        side.errorbar(values, list(panel.bars), xerr=[below, above], fmt="o")
        side.set(xlabel=panel.unit, xscale="log")
        side.grid(axis="x", which="both", alpha=0.3)
    else:
        side.barh(list(panel.bars), values, xerr=[below, above])
        side.set(xlabel=panel.unit, xlim=(0, None))
    side.set_title(panel.title, loc="left", fontsize="small")
    side.invert_yaxis()  # in the order of the tables


def save(figure: Figure, path: Path) -> None:
    """Write `figure` as SVG; equal figures give equal files."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": path.stem}):
        figure.savefig(path, format="svg", metadata={"Date": None})
