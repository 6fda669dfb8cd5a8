"""The experiment as a whole: all runs, and what they say together."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prefillshare.bench.accuracy.modules import module_costs
from prefillshare.bench.accuracy.runs import Run, run_system
from prefillshare.bench.accuracy.scoring import cells
from prefillshare.bench.accuracy.settings import AccuracySettings
from prefillshare.errors import PrefillShareError
from prefillshare.evals.noninferiority import non_inferiority, power
from prefillshare.evals.runner import Scores
from prefillshare.evals.statistics import crossed_interval

DISTANCES = (0, 128, 256, 512, 1024, 2048, 4096)
# By reading, test: one `Scores` a seed.
Finals = Mapping[str, Mapping[str, Sequence[Scores]]]


def run_accuracy(settings: AccuracySettings, model: Path) -> dict[str, Any]:
    """Train and score what is not there yet; returns the figures of all there is.

    Systems that `settings.only` leaves out and nobody has made yet are listed under
    `missing`; a system counts with the seeds that every test has.

    Raises:
        PrefillShareError: there is no run at all.
    """
    runs: dict[str, list[Run]] = {name: [] for name in settings.systems}
    missing: list[str] = []
    for seed in settings.seeds:
        for system in settings.systems:
            run = run_system(settings, system, seed, model)
            if run is None:
                missing.append(f"{system}, seed {seed}")
            else:
                runs[system].append(run)
    finals = _finals(settings, runs)
    if not finals:
        raise PrefillShareError(
            f"{settings.output} holds no finished run; run without `only` first"
        )
    return {
        "systems": {
            reading: {test: _figures(scores) for test, scores in by_test.items()}
            for reading, by_test in finals.items()
        },
        "curves": _curves(settings, runs),
        "compare": _compare(settings, finals),
        "seconds_per_step": {
            system: statistics.median(s for run in made for s in run.seconds)
            for system, made in runs.items()
            if any(run.seconds for run in made)
        },
        "modules": module_costs(settings, model),
        "missing": missing,
    }


def _finals(
    settings: AccuracySettings, runs: Mapping[str, Sequence[Run]]
) -> dict[str, dict[str, list[Scores]]]:
    finals: dict[str, dict[str, list[Scores]]] = {}
    for system, made in runs.items():
        for cell in cells(settings, system):
            by_test = finals.setdefault(cell.reading, {})
            key = cell.key(settings.test_units)
            by_test[cell.test] = [run.finals[key] for run in made]
    return {reading: tests for reading, tests in finals.items() if all(tests.values())}


def _figures(scores: Sequence[Scores]) -> dict[str, Any]:
    """Means over seeds and examples; the interval covers both."""
    clusters = scores[0].context
    per_seed = [sum(each.exact) / len(each.exact) for each in scores]
    return {
        "nll": vars(crossed_interval([each.nll for each in scores], clusters)),
        "exact_match": vars(
            crossed_interval([each.exact for each in scores], clusters)
        ),
        "exact_match_by_seed": per_seed,
        "examples": len(clusters),
        "seeds": len(scores),
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
    settings: AccuracySettings, runs: Mapping[str, Sequence[Run]]
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """By test and reading: every point's mean over seeds, with the range."""
    curves: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for reading, system, _ in settings.readings():
        for test in {t: 0 for run in runs[system] for t in run.curve.get(reading, {})}:
            seeds = [
                {point["step"]: point for point in run.curve[reading][test]}
                for run in runs[system]
            ]
            # Runs that were scored at other steps have only some in common.
            steps = sorted(set.intersection(*map(set, seeds)))
            curves.setdefault(test, {})[reading] = [
                _point([points[step] for points in seeds]) for step in steps
            ]
    return curves


def _point(seeds: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    exact = [point["exact_match"] for point in seeds]
    return {
        "step": seeds[0]["step"],
        "nll": statistics.fmean(point["nll"] for point in seeds),
        "exact_match": statistics.fmean(exact),
        "lowest": min(exact),
        "highest": max(exact),
    }


def _compare(settings: AccuracySettings, finals: Finals) -> list[dict[str, Any]]:
    return [
        {**vars(pair), "test": test, **_verdict(scores, reference, settings.margin)}
        for pair in settings.compare
        if pair.system in finals and pair.reference in finals
        for test, scores in finals[pair.system].items()
        for reference in [finals[pair.reference][test]]
        if len(reference) == len(scores)
    ]


def _verdict(
    system: Sequence[Scores], reference: Sequence[Scores], margin: float
) -> dict[str, Any]:
    """Non-inferiority of exact match, its power, and the difference of NLL."""
    a, b = ([each.exact for each in scores] for scores in (system, reference))
    clusters = system[0].context
    tested = non_inferiority(a, b, margin, clusters)
    discordance = float(np.mean(np.asarray(a) != np.asarray(b)))
    nll = np.asarray([x.nll for x in system]) - np.asarray([x.nll for x in reference])
    return {
        "exact_match": vars(tested),
        "discordance": discordance,
        # Of an equally good system, and with as many independent examples.
        "power": power(discordance, tested.clusters, margin) if discordance else 1.0,
        "nll": vars(crossed_interval(nll.tolist(), clusters)),
    }
