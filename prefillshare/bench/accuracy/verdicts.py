"""What the systems of an accuracy experiment are worth beside each other, paired."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from prefillshare.bench.accuracy.run import Run
from prefillshare.bench.accuracy.scoring import cells
from prefillshare.bench.accuracy.settings import AccuracySettings
from prefillshare.evals.answers import Answers, paired_marks
from prefillshare.evals.noninferiority import non_inferiority
from prefillshare.evals.runner import Scores
from prefillshare.evals.statistics import crossed_interval

# By system and seed.
Runs = Mapping[str, Mapping[int, Run]]
# By reading, test and seed.
Finals = Mapping[str, Mapping[str, Mapping[int, Scores]]]


def compare(settings: AccuracySettings, finals: Finals) -> list[dict[str, Any]]:
    """Every pair on every test, over the seeds that both have."""
    rows = []
    for pair in settings.compare:
        reference = finals.get(pair.reference, {})
        for test, scores in finals.get(pair.system, {}).items():
            seeds = [seed for seed in scores if seed in reference.get(test, {})]
            if seeds:
                a = [scores[seed] for seed in seeds]
                b = [reference[test][seed] for seed in seeds]
                verdict = _verdict(a, b, settings.margin)
                rows.append({**vars(pair), "test": test, "seeds": seeds, **verdict})
    return rows


def _verdict(
    system: Sequence[Scores], reference: Sequence[Scores], margin: float | None
) -> dict[str, Any]:
    """Non-inferiority of exact match, and the difference of NLL.

    There is no verdict without a margin, nor where neither is ever right.
    """
    a, b = ([each.exact for each in scores] for scores in (system, reference))
    clusters = system[0].context
    nll = np.asarray([x.nll for x in system]) - np.asarray([x.nll for x in reference])
    exact = dict(vars(non_inferiority(a, b, margin or 1.0, clusters)))
    if margin is None or not (np.any(a) or np.any(b)):
        exact |= {"margin": margin, "verdict": None, "power": None}
    return {
        "exact_match": exact,
        "discordance": float(np.mean(np.asarray(a) != np.asarray(b))),
        "nll": vars(crossed_interval(nll.tolist(), clusters)),
    }


def compare_answers(settings: AccuracySettings, runs: Runs) -> list[dict[str, Any]]:
    """Every pair on every test whose answers were generated, by the scorer's marks."""
    if settings.generate is None:
        return []
    answers = {
        (cell.reading, cell.test): dict(_answered(run, cell.answers_key(settings)))
        for system, run in runs.items()
        for cell in cells(settings, system)
    }
    return [
        {**vars(pair), "test": test, **row}
        for pair in settings.compare
        for reading, test in answers
        if reading == pair.system
        for row in _marked(
            answers[reading, test],
            answers.get((pair.reference, test), {}),
            settings.margin,
        )
    ]


def _answered(runs: Mapping[int, Run], key: str) -> Iterator[tuple[int, Answers]]:
    for seed, run in runs.items():
        answers = run.answers[key]
        if answers is not None:
            yield seed, answers


def _marked(
    system: Mapping[int, Answers],
    reference: Mapping[int, Answers],
    margin: float | None,
) -> Iterator[dict[str, Any]]:
    seeds = [seed for seed in system if seed in reference]
    if not seeds:
        return
    a, b = ([side[seed] for seed in seeds] for side in (system, reference))
    for mark, (ours, theirs, units) in paired_marks(a, b).items():
        if len(set(units)) > 1:
            tested = dict(vars(non_inferiority(ours, theirs, margin or 1.0, units)))
            if margin is None:
                tested |= {"margin": None, "verdict": None, "power": None}
            # The test counts the seeds; here they are named.
            yield {"mark": mark, **tested, "seeds": seeds}
