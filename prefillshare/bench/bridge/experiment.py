"""Decoders on a bridged cache, between their own prefill and no context at all.

It trains and scores what an accuracy experiment describes, and says for each pair of
models which share of own prefill's gain the bridge recovers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any, Self

from pydantic import Field, model_validator

from prefillshare.bench.accuracy.experiment import finals_of, make_runs, results_of
from prefillshare.bench.accuracy.settings import AccuracySettings
from prefillshare.bench.accuracy.verdicts import Finals
from prefillshare.bench.bridge.summaries import write_missing_summaries
from prefillshare.config import Config
from prefillshare.errors import ConfigError
from prefillshare.evals.recovery import Recovery, recovery
from prefillshare.evals.runner import DISTANCES, Scores
from prefillshare.models.bridge.storage import load_bridge

# The figures that are compared, by their name in tables and in `Scores`.
METRICS = {"exact_match": "exact", "nll": "nll"}


class BridgePair(Config):
    """A prefill module and a decoder's model.

    Attributes:
        name: of the pair, in tables.
        bridged, own, no_context: systems of the experiment: decoders on the bridged
            cache, on their own (the upper bound), and trained and asked without the
            context (the lower bound).
        text: a system whose task has `summaries`: the hand-off of a text instead, which
            the prefill module writes as far as it is missing.
        fitted, inspected: the figures that `prefillshare bridge fit --json` and
            `bridge inspect --json` wrote.
    """

    name: str
    bridged: str
    own: str
    no_context: str
    text: str | None = None
    fitted: Path | None = None
    inspected: Path | None = None


class BridgeEvalSettings(Config):
    """An accuracy experiment, and which of its systems bracket which.

    `summary_tokens` bounds each summary of a text hand-off.
    """

    experiment: AccuracySettings
    pairs: list[BridgePair]
    summary_tokens: int = Field(128, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for pair in self.pairs:
            for name in (pair.bridged, pair.own, pair.no_context, pair.text):
                if name is not None and name not in self.experiment.systems:
                    raise ValueError(
                        f"pair {pair.name!r} names {name}, which is none of "
                        f"{', '.join(self.experiment.systems)}"
                    )
        return self


def run_bridge_eval(settings: BridgeEvalSettings, model: Path) -> dict[str, Any]:
    """Train and score what is not there yet; `rows` has a row a pair, test and metric.

    Raises:
        ConfigError: a file of fit figures cannot be read.
    """
    experiment = settings.experiment
    write_missing_summaries(experiment, model, settings.summary_tokens)
    fits = {pair.name: _measured(pair) for pair in settings.pairs}
    outcome = make_runs(experiment, model)
    finals = finals_of(experiment, outcome.runs)
    rows = [
        {**row, **_bridge_figures(experiment, pair), **fits[pair.name]}
        for pair in settings.pairs
        for row in _rows(pair, finals)
    ]
    return {"rows": rows, **results_of(experiment, model, outcome)}


def _rows(pair: BridgePair, finals: Finals) -> Iterator[dict[str, Any]]:
    sides = (pair.own, pair.bridged, pair.no_context)
    if any(name not in finals for name in sides):
        return
    for test in finals[pair.bridged]:
        by_seed = [finals[name].get(test, {}) for name in sides]
        seeds = sorted(set.intersection(*(set(scores) for scores in by_seed)))
        if not seeds:
            continue
        sides_here = [[scores[seed] for seed in seeds] for scores in by_seed]
        for metric, field in METRICS.items():
            facts = {"pair": pair.name, "task": test, "metric": metric}
            text = _mean(finals, pair.text, test, seeds, field)
            for stretch, places in _stretches(sides_here[0][0]):
                row = _row(_recovery(sides_here, field, places))
                shown = {"text_hand_off": text if stretch is None else None}
                yield {**facts, "distance": stretch, **row, **shown}


def _stretches(
    scores: Scores,
) -> Iterator[tuple[list[int] | None, list[int]]]:
    """All examples, and those by how far the fact stands from the boundary."""
    yield None, list(range(len(scores.distance)))
    for low, high in pairwise(DISTANCES):
        places = [i for i, at in enumerate(scores.distance) if low <= at < high]
        if len({scores.context[i] for i in places}) > 1:
            yield [low, high], places


def _recovery(
    sides: Sequence[Sequence[Scores]], field: str, places: Sequence[int]
) -> Recovery:
    """Of own prefill, bridged and no context, over the examples `places`."""
    values = [
        [[getattr(scores, field)[i] for i in places] for scores in seeds]
        for seeds in sides
    ]
    clusters = [sides[0][0].context[i] for i in places]
    own, bridged, floor = values
    return recovery(own, bridged, floor, clusters, losses=field == "nll")


def _mean(
    finals: Finals, system: str | None, test: str, seeds: Sequence[int], field: str
) -> float | None:
    """Over the seeds that all sides have; None if the system was not run with them."""
    scores = finals.get(system, {}).get(test, {}) if system is not None else {}
    if not set(seeds) <= set(scores):
        return None
    return fmean(fmean(getattr(scores[seed], field)) for seed in seeds)


def _row(found: Recovery) -> dict[str, Any]:
    share = found.share
    return {
        "own_prefill": found.own,
        "bridged": found.bridged,
        "no_context": found.floor,
        "recovered": share and share.mean,
        "ci": share and [share.low, share.high],
    }


def _bridge_figures(experiment: AccuracySettings, pair: BridgePair) -> dict[str, Any]:
    directory = experiment.systems[pair.bridged].train.get("bridge")
    directory = directory or experiment.decoder.get("bridge")
    if directory is None:
        raise ConfigError(f"system {pair.bridged!r} has no `bridge`; name one")
    return {"bridge_parameters": load_bridge(Path(directory)).parameter_count}


def _measured(pair: BridgePair) -> dict[str, Any]:
    """What fitting took, and what the hand-off takes."""
    fit = _results(pair.fitted, "fit")
    seen = _results(pair.inspected, "inspect")
    return {
        "fit_seconds": fit and fit["fit_seconds"],
        "fit_tokens": fit and fit["tokens"],
        "untrained": seen and seen["recovered"],
        "hand_off": seen and seen["hand_off"],
    }


def _results(path: Path | None, made_by: str) -> dict[str, Any] | None:
    """The figures of a `bridge` command, with the keys that it writes."""
    if path is None:
        return None
    needed = {"fit": ("fit_seconds", "tokens"), "inspect": ("recovered", "hand_off")}
    try:
        results: dict[str, Any] = json.loads(path.read_text())["results"]
        missing = [key for key in needed[made_by] if key not in results]
        if missing:
            raise ValueError(f"{', '.join(missing)} are missing")
        return results
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} has no figures of that ({error}); write them by "
            f"`prefillshare bridge {made_by} --json FILE`"
        ) from error
