"""The experiment as a whole: all runs, and what they say together."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefillshare.bench.accuracy.general import module_costs
from prefillshare.bench.accuracy.plan import plans_of
from prefillshare.bench.accuracy.run import Run
from prefillshare.bench.accuracy.runs import run_system
from prefillshare.bench.accuracy.scoring import cells
from prefillshare.bench.accuracy.settings import AccuracySettings, test_title
from prefillshare.bench.accuracy.verdicts import (
    Runs,
    compare,
    compare_answers,
)
from prefillshare.errors import PrefillShareError
from prefillshare.evals.answers import mark_figures
from prefillshare.evals.runner import DISTANCES, Scores
from prefillshare.evals.statistics import crossed_interval, score_interval
from prefillshare.tasks.base import commonest_share
from prefillshare.training.settings import build_task


def run_accuracy(settings: AccuracySettings, model: Path) -> dict[str, Any]:
    """Train and score what is not there yet; returns the figures of all there is.

    Systems that `settings.only` or `make` leaves out and nobody has made yet are listed
    under `missing`; a system counts with the seeds that it has. Of runs that were cut
    short there are the curves.

    Raises:
        PrefillShareError: there is no run at all.
    """
    return results_of(settings, model, make_runs(settings, model))


@dataclass(frozen=True)
class Outcome:
    """What came of an experiment's runs.

    Attributes:
        runs: those that are finished.
        begun: those whose curves are not at their end, or whose tests not all scored.
        missing: what is not finished, in words.
    """

    runs: Runs
    begun: Runs
    missing: Sequence[str]


def make_runs(settings: AccuracySettings, model: Path) -> Outcome:
    """Make every run that is not there yet.

    Raises:
        PrefillShareError: a run or module of other settings is in the way of any of
            them; nothing was trained then.
    """
    runs: dict[str, dict[int, Run]] = {name: {} for name in settings.systems}
    begun: dict[str, dict[int, Run]] = {name: {} for name in settings.systems}
    missing: list[str] = []
    plans = plans_of(settings, model)
    for plan in plans:
        plan.require_consistent()
    for plan in plans:
        seed, run = plan.training.seed, run_system(plan)
        if run is not None:
            runs[plan.system][seed] = run
            continue
        part = plan.load()
        if part.curve:
            begun[plan.system][seed] = part
        missing.append(f"{plan.system}, seed {seed}{_how_far(part)}")
    return Outcome(runs, begun, missing)


def _how_far(run: Run) -> str:
    if run.trained:
        return " (trained, but not scored on every test)"
    return f" (cut short after {len(run.seconds)} steps)" if run.seconds else ""


def _commonest(settings: AccuracySettings) -> dict[str, float]:
    """By test, what the commonest reference is worth."""
    return {
        test_title(test): commonest_share(
            build_task(test).units("test")[: settings.test_units]
        )
        for each in settings.tasks
        for test in each.test
    }


def results_of(
    settings: AccuracySettings, model: Path, outcome: Outcome
) -> dict[str, Any]:
    """What the finished runs say together, and the curves of those that were begun.

    Raises:
        PrefillShareError: there is no run at all.
    """
    runs = outcome.runs
    finals = finals_of(settings, runs)
    if not finals:
        raise PrefillShareError(
            f"{settings.output} holds no finished run; run without `only` and `make` "
            "first"
        )
    every = {name: {**made, **outcome.begun[name]} for name, made in runs.items()}
    return {
        "systems": {
            reading: {test: _figures(scores) for test, scores in by_test.items()}
            for reading, by_test in finals.items()
        },
        "commonest": _commonest(settings),
        "answers": _answers(settings, runs),
        "curves": _curves(settings, every),
        "compare": compare(settings, finals),
        "compare_answers": compare_answers(settings, runs),
        "seconds_per_step": {
            system: statistics.median(s for run in made.values() for s in run.seconds)
            for system, made in runs.items()
            if any(run.seconds for run in made.values())
        },
        "modules": module_costs(settings, model),
        "made": _made(every),
        "missing": outcome.missing,
    }


def finals_of(
    settings: AccuracySettings, runs: Runs
) -> dict[str, dict[str, dict[int, Scores]]]:
    """The last scores of `runs`, by reading, test and seed."""
    finals: dict[str, dict[str, dict[int, Scores]]] = {}
    for system, made in runs.items():
        for cell in cells(settings, system) if made else ():
            key = cell.key(settings.test_units)
            by_seed = {seed: run.finals[key] for seed, run in made.items()}
            finals.setdefault(cell.reading, {})[cell.test] = by_seed
    return finals


def _answers(settings: AccuracySettings, runs: Runs) -> dict[str, dict[str, Any]]:
    """By reading and test, the marks of generated answers, over seeds and units."""
    found: dict[str, dict[str, Any]] = {}
    for system, made in runs.items():
        for cell in cells(settings, system) if settings.generate and made else ():
            key = cell.answers_key(settings)
            every = [run.answers[key] for run in made.values()]
            seeds = [each for each in every if each is not None]
            if seeds:
                found.setdefault(cell.reading, {})[cell.test] = mark_figures(seeds)
    return found


def _made(runs: Runs) -> list[dict[str, Any]]:
    """The environments that runs were trained in, one after another, and which runs."""
    found: dict[str, dict[str, Any]] = {}
    for system, made in runs.items():
        for seed, run in made.items():
            where = json.dumps(run.made, sort_keys=True)
            entry = found.setdefault(where, {"made": run.made, "runs": []})
            entry["runs"].append(f"{system}, seed {seed}")
    return list(found.values())


def _figures(by_seed: Mapping[int, Scores]) -> dict[str, Any]:
    """Means over seeds and examples; the interval covers both."""
    scores = list(by_seed.values())
    clusters = scores[0].context
    per_seed = [sum(each.exact) / len(each.exact) for each in scores]
    return {
        "nll": vars(crossed_interval([each.nll for each in scores], clusters)),
        "exact_match": vars(score_interval([each.exact for each in scores], clusters)),
        "exact_match_by_seed": per_seed,
        "examples": len(clusters),
        "seeds": list(by_seed),
        "by_distance": _together(
            [each.exact_by_distance(DISTANCES) for each in scores]
        ),
        "by_depth": _together([each.exact_by_depth() for each in scores]),
        **_over_seeds([each.summary() for each in scores]),
    }


def _over_seeds(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Accuracy by field, and calibration error, averaged where all seeds have them."""
    figures: dict[str, Any] = {}
    if all("fields" in each for each in summaries):
        names = summaries[0]["fields"]
        figures["fields"] = {
            name: statistics.fmean(each["fields"][name] for each in summaries)
            for name in names
        }
    if all("calibration_error" in each for each in summaries):
        errors = [each["calibration_error"] for each in summaries]
        figures["calibration_error"] = statistics.fmean(errors)
    return figures


def _together(tables: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The same rows of several seeds, exact match averaged."""
    return [
        {**rows[0], "exact_match": statistics.fmean(r["exact_match"] for r in rows)}
        for rows in zip(*tables, strict=True)
    ]


def _curves(
    settings: AccuracySettings, runs: Runs
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """By test and reading: every point's mean over its seeds, with the range."""
    curves: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for reading, system, _ in settings.readings():
        # By test and step; runs may have been scored at other steps, and a test that
        # was added later has no curve of earlier runs.
        points: dict[str, dict[float, dict[int, Mapping[str, float]]]] = {}
        for seed, run in runs[system].items():
            for test, curve in run.curve.get(reading, {}).items():
                for point in curve:
                    here = points.setdefault(test, {}).setdefault(point["step"], {})
                    here[seed] = point
        for test, by_step in points.items():
            curves.setdefault(test, {})[reading] = [
                _point(by_step[step]) for step in sorted(by_step)
            ]
    return curves


def _point(by_seed: Mapping[int, Mapping[str, float]]) -> dict[str, Any]:
    points = list(by_seed.values())
    exact = [point["exact_match"] for point in points]
    return {
        "step": points[0]["step"],
        "nll": statistics.fmean(point["nll"] for point in points),
        "exact_match": statistics.fmean(exact),
        "lowest": min(exact),
        "highest": max(exact),
        "seeds": list(by_seed),
    }
