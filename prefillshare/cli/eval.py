"""`prefillshare eval`: the comparison set on the same test cases, or one profile."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from prefillshare.cli.command import Options, Report
from prefillshare.config import load_config
from prefillshare.evals.cards import write_evaluations
from prefillshare.evals.comparison import (
    EvalSettings,
    answer,
    compare,
    differences,
    mark_verdicts,
    summarise,
    verdicts,
)
from prefillshare.evals.sensitivity import SensitivitySettings, run_sensitivity
from prefillshare.report import accuracy_table, differences_table, say, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to evaluate."""
    parser.add_argument(
        "what",
        nargs="?",
        choices=("comparison", "sensitivity"),
        default="comparison",
        help="decoders against each other (default), or which layers of the base's "
        "cache one tuned decoder must compute anew",
    )


def run(options: Options) -> Report:
    """Evaluate and print the tables."""
    if options.extra.what == "sensitivity":
        return _sensitivity(options)
    settings = load_config(EvalSettings, options.config, options.overrides)
    accuracy = compare(settings, say)
    answers = answer(settings, say)
    if settings.cards:
        for directory in write_evaluations(settings.tasks, accuracy, answers):
            say(f"wrote the figures on the card of {directory}")
    results = {
        "accuracy": summarise(accuracy),
        "paired": differences(accuracy),
        "non_inferiority": verdicts(accuracy, settings.margin),
    }
    if answers:
        results["answers"] = {
            system: {task: each.summary() for task, each in tasks.items()}
            for system, tasks in answers.items()
        }
        results["marks_non_inferiority"] = mark_verdicts(answers, settings.margin)
    accuracy_table(results["accuracy"])
    if answers:
        _answers_table(results["answers"])
    if results["paired"]:
        differences_table(results["paired"])
    if results["non_inferiority"]:
        _verdicts_table("Exact match", results["non_inferiority"], settings.margin)
    for name, tasks in results.get("marks_non_inferiority", {}).items():
        _verdicts_table("Generated answers", {name: _by_mark(tasks)}, settings.margin)
    return Report(settings.model_dump(mode="json"), results)


def _answers_table(answers: Mapping[str, Any]) -> None:
    rows = [
        [system, task, name, *_percent(figures), str(figures["n"])]
        for system, tasks in answers.items()
        for task, answered in tasks.items()
        for name, figures in answered["marks"].items()
    ]
    title = "Generated answers, marked by the task's scorer"
    table(title, ["system", "task", "right", "", "95 %", "n"], rows)


def _percent(figures: Mapping[str, Any]) -> list[str]:
    low, high = figures["low"], figures["high"]
    interval = "–" if low is None else f"{100 * low:.0f} to {100 * high:.0f} %"
    return [f"{100 * figures['mean']:.0f} %", interval]


def _by_mark(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {f"{t}, {m}": x for t, marks in tasks.items() for m, x in marks.items()}


def _verdicts_table(what: str, verdicts: Mapping[str, Any], margin: float) -> None:
    rows = [
        [
            name.replace("_minus_", " − "),
            task,
            f"{100 * x['difference']:+.1f}",
            f"{100 * x['low']:+.1f} to {100 * x['high']:+.1f}",
            x["verdict"],
        ]
        for name, tasks in verdicts.items()
        for task, x in tasks.items()
    ]
    title = f"{what}: is shared at most {100 * margin:g} points worse?"
    table(title, ["", "task", "points", "90 %", "verdict"], rows)


def _sensitivity(options: Options) -> Report:
    settings = load_config(SensitivitySettings, options.config, options.overrides)
    results = run_sensitivity(settings, say)
    rows = [
        [str(row["layer"]), *_increase(row["increase"])] for row in results["by_layer"]
    ]
    table("One layer from the base, the others its own", _COLUMNS, rows)
    rows = [
        ["{} to {}".format(*row["layers"]), *_increase(row["increase"])]
        for row in results["by_group"]
    ]
    table("The base's cache, those layers (last one excluded) anew", _COLUMNS, rows)
    nll, shipped = results["nll"], results["bytes_per_token"]
    first, last = results["best"]
    say(f"NLL: own prefill {nll['own']:.3f}, the base's cache {nll['naive']:.3f}")
    say(f"best: recompute: [{first}, {last}], NLL {nll['best']:.3f}")
    say(
        f"to ship per prompt token: {sum(shipped['best'].values())} bytes, of which "
        f"{shipped['best']['layer_input']} enter layer {first}; the whole cache is "
        f"{sum(shipped['naive'].values())}"
    )
    return Report(settings.model_dump(mode="json"), results)


_COLUMNS = ("layers", "NLL above own", "95 %")


def _increase(interval: Mapping[str, float]) -> list[str]:
    low, high = interval["low"], interval["high"]
    return [f"{interval['mean']:+.4f}", f"{low:+.4f} to {high:+.4f}"]
