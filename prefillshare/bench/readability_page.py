"""The page of the readability experiment, `docs/results/readability.md`."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from prefillshare.bench.page import accuracy_table

_SYSTEMS = {
    "tuned": "on the cache of the tuned prefill module",
    "untuned": "on the cache of the base as it comes",
    "own": "own prefill, from the base",
    "tuned_own": "own prefill, from the tuned module's weights",
}


def readability_page(
    results: Mapping[str, Any],
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    command: str,
    note: str = "",
) -> str:
    """Markdown with every figure of the run and how to make it again."""
    today = datetime.date.today().isoformat()
    parts = [
        f"# Is a tuned prefill module's cache easier to read? {today}\n",
        _setup(config, environment, command),
        *([f"{note}\n"] if note else []),
        "## Decoders for tasks that the module never saw\n",
        accuracy_table(results["final"], _SYSTEMS),
        "## Over training (exact match; NLL in nats per response token)\n",
        *(_curve(task, curve) for task, curve in results["curves"].items()),
        "## Paired differences on the same examples\n",
        _paired(results["paired"]),
    ]
    return "\n".join(parts)


def _setup(
    config: Mapping[str, Any], environment: Mapping[str, Any], command: str
) -> str:
    prefill, decoder = config["prefill"], config["decoder"]
    mixture = ", ".join(task["agent"] for task in prefill["tasks"] if "agent" in task)
    return (
        f"`{command}`\n\n"
        f"Commit {environment['commit']}; torch {environment['torch']}, transformers "
        f"{environment['transformers']}; {environment['cpu_count']} cores of "
        f"{environment['cpu']}. The module: {prefill['steps']} steps, "
        f"`{prefill['mode']}` of {mixture}, {prefill['method']}. Decoders: "
        f"{decoder['steps']} steps, {decoder['method']}, boundary "
        f"`{decoder['boundary']}`, the same data in the same order for every system, "
        f"seed {decoder['seed']}: one seed, so intervals cover the test examples "
        "only.\n"
    )


def _curve(task: str, curve: Mapping[str, Any]) -> str:
    steps = sorted({point["step"] for points in curve.values() for point in points})
    lines = [
        f"| {task} | " + " | ".join(f"step {step}" for step in steps) + " |",
        "|---|" + "---|" * len(steps),
    ]
    for system, points in curve.items():
        cells = {
            point["step"]: f"{point['exact_match']:.0%} ({point['nll']:.3f})"
            for point in points
        }
        row = " | ".join(cells.get(step, "–") for step in steps)
        lines.append(f"| {system} | {row} |")
    return "\n".join(lines) + "\n"


def _paired(paired: Mapping[str, Any]) -> str:
    lines = [
        f"- {name.replace('_', ' ')}, {task}: {_points(row['exact_match'])} of exact "
        f"match, {row['nll']['mean']:+.3f} nats ({row['nll']['low']:+.3f} to "
        f"{row['nll']['high']:+.3f})"
        for name, tasks in paired.items()
        for task, row in tasks.items()
    ]
    return "\n".join(lines) + "\n"


def _points(row: Mapping[str, float]) -> str:
    mean, low, high = (100 * row[key] for key in ("mean", "low", "high"))
    return f"{mean:+.0f} points ({low:+.0f} to {high:+.0f})"
