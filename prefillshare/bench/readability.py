"""How well can new decoders read a prefill module's cache, tuned or as it comes?

One prefill module is tuned on a mixture of tasks. Then decoders for tasks that it
never saw are trained on its cache, on the untuned base's, and with their own prefill,
all from the same data in the same order, and scored on held-out units along the way.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

from accelerate import Accelerator
from pydantic import Field

from prefillshare.config import Config
from prefillshare.evals.runner import Scores, evaluate
from prefillshare.evals.statistics import paired_difference
from prefillshare.report import progress, say
from prefillshare.training.data import Group
from prefillshare.training.decoders import DecoderExperiment
from prefillshare.training.metrics import StepLog
from prefillshare.training.readable import PrefillExperiment
from prefillshare.training.settings import (
    PrefillSettings,
    TaskSettings,
    TrainSettings,
    build_task,
)
from prefillshare.training.trainer import Trainer

System = Literal["tuned", "untuned", "own", "tuned_own"]


class TestedTask(Config):
    """A held-out task: what its decoder learns, and what it is scored on."""

    train: TaskSettings
    test: list[TaskSettings] = Field(min_length=1)


class ReadabilitySettings(Config):
    """`prefill` tunes the module; `decoder` holds what all decoders have in common.

    `model: null` is SmolLM2-135M-Instruct from its package; the `model` of the parts
    and `decoder.tasks` are filled in. `tuned_own` is the control that starts from the
    tuned weights too, but prefills for itself. `evaluate_every` steps every decoder
    is scored, so that curves are reported and not one point.
    """

    model: Path | None = None
    prefill: PrefillSettings
    decoder: TrainSettings
    tasks: list[TestedTask] = Field(min_length=1)
    systems: list[System] = ["tuned", "untuned", "own", "tuned_own"]
    evaluate_every: int = Field(25, ge=1)


def run_readability(settings: ReadabilitySettings, model: Path) -> dict[str, Any]:
    """The whole experiment; returns its figures."""
    results: dict[str, Any] = {"curves": {}, "final": {}, "seconds_per_step": {}}
    directories = {"untuned": model, "own": model}
    if {"tuned", "tuned_own"} & set(settings.systems):
        module = _tune(settings.prefill, model, results)
        directories |= {"tuned": module, "tuned_own": module}
    finals: dict[str, list[Scores]] = {}
    for system in settings.systems:
        decoder = settings.decoder.model_copy(
            update={
                "model": directories[system],
                "output": settings.decoder.output / system,
                "task": None,
                "tasks": [each.train for each in settings.tasks],
                "prefill": "own" if system.endswith("own") else "shared",
                "resume": False,
            }
        )
        finals[system] = _curve(system, decoder, settings, results)
    results["paired"] = _paired(settings, finals)
    return results


def _tune(settings: PrefillSettings, model: Path, results: dict[str, Any]) -> Path:
    settings = settings.model_copy(update={"model": model, "resume": False})
    accelerator = Accelerator()
    experiment = PrefillExperiment(settings, accelerator.device)
    losses: list[float] = []
    began = time.monotonic()
    with progress("tuning the prefill module", settings.steps) as tick:

        def show(entry: StepLog) -> None:
            losses.append(entry.loss)
            tick(f"loss {entry.loss:.3f}")

        directory = Trainer(settings, experiment, accelerator).run(show)
    results["prefill"] = {
        "losses": losses,
        "seconds": time.monotonic() - began,
        "module": str(directory),
    }
    return directory


def _curve(
    system: System,
    decoder: TrainSettings,
    settings: ReadabilitySettings,
    results: dict[str, Any],
) -> list[Scores]:
    """Train the decoders of one system; returns their last scores, test by test."""
    accelerator = Accelerator()
    experiment = DecoderExperiment(decoder, accelerator.device)
    tests = _tests(experiment, settings)
    last: list[Scores] = []
    seconds: list[float] = []
    with progress(f"decoders, {system}", decoder.steps) as tick:

        def show(entry: StepLog) -> None:
            seconds.append(entry.seconds)
            tick(f"loss {entry.loss:.3f}")
            at_end = entry.step == decoder.steps
            if at_end or entry.step % settings.evaluate_every == 0:
                last[:] = [
                    evaluate(experiment.scheme, experiment.decoders[i].model, groups)
                    for i, _, groups in tests
                ]
                _note(results["curves"], system, entry.step, tests, last)

        Trainer(decoder, experiment, accelerator).run(show)
    results["seconds_per_step"][system] = sorted(seconds)[len(seconds) // 2]
    results["final"][system] = {
        name: scores.summary() | {"by_distance": scores.exact_by_distance(DISTANCES)}
        for (_, name, _), scores in zip(tests, last, strict=True)
    }
    say(f"{system}: " + ", ".join(_short(results["final"][system])))
    return last


DISTANCES = (0, 128, 256, 512, 1024, 2048, 4096)
Test = tuple[int, str, list[Group]]


def _tests(experiment: DecoderExperiment, settings: ReadabilitySettings) -> list[Test]:
    """Every test as the decoder's number, a name, and its units."""
    tokenisation = experiment.workshop.tokenisation
    return [
        (i, test_name(each), tokenisation.groups(build_task(each), "test"))
        for i, task in enumerate(settings.tasks)
        for each in task.test
    ]


def test_name(task: TaskSettings) -> str:
    """What a test is called in tables: the task, and what is unusual about it."""
    name = build_task(task).name
    unusual = [
        f"{key}={getattr(task, key)}"
        for key in ("format", "records", "records_max", "depths", "with_context")
        if key in task.model_fields_set
    ]
    return f"{name} ({', '.join(unusual)})" if unusual else name


def _note(
    curves: dict[str, Any],
    system: str,
    step: int,
    tests: list[Test],
    scores: list[Scores],
) -> None:
    for (_, name, _), each in zip(tests, scores, strict=True):
        figures = each.summary()
        point = {"step": step, **{k: figures[k] for k in ("nll", "exact_match")}}
        curves.setdefault(name, {}).setdefault(system, []).append(point)


def _short(final: dict[str, Any]) -> list[str]:
    return [f"{name} {row['exact_match']:.0%}" for name, row in final.items()]


def _paired(
    settings: ReadabilitySettings, finals: dict[str, list[Scores]]
) -> dict[str, Any]:
    """Exact match and NLL of `tuned` minus the others', example by example."""
    names = [test_name(test) for task in settings.tasks for test in task.test]
    if "tuned" not in finals:
        return {}
    return {
        f"tuned_minus_{other}": {
            name: {
                "exact_match": vars(_difference(a.exact, b.exact, a)),
                "nll": vars(_difference(a.nll, b.nll, a)),
            }
            for name, a, b in zip(names, finals["tuned"], finals[other], strict=True)
        }
        for other in finals
        if other != "tuned"
    }


def _difference(a: Any, b: Any, scores: Scores) -> Any:
    return paired_difference(a, b, scores.context)
