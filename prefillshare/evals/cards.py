"""Figures of an evaluation on the model cards of the decoders that were evaluated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from huggingface_hub import EvalResult

from prefillshare.evals.answers import Answers
from prefillshare.evals.runner import Scores
from prefillshare.evals.systems import ComparedTask
from prefillshare.training.card import add_evaluation
from prefillshare.training.settings import build_task

# System of the comparison, and the key of `ComparedTask` that names its decoder: each
# decoder as it was trained to be read.
_AS_TRAINED = {
    "full": "own",
    "shared": "shared",
    "shared_full": "shared_full",
    "alora": "alora",
    "icarus": "icarus",
}


def write_evaluations(
    tasks: Sequence[ComparedTask],
    accuracy: Mapping[str, Mapping[str, Scores]],
    answers: Mapping[str, Mapping[str, Answers]],
) -> list[Path]:
    """Put the figures on every card; returns the decoders' directories.

    Exact match and NLL of the reference, and of answers that were generated the
    scorer's marks. A decoder of several tasks (`one_model`), and decoders read
    otherwise than they were trained to be, are left out.
    """
    written = []
    for compared in tasks:
        name = build_task(compared.task).name
        for system, key in _AS_TRAINED.items():
            directory: Path | None = getattr(compared, key)
            if directory is not None:
                results = [*_results(compared, name, accuracy[system][name])]
                if answered := answers.get(system, {}).get(name):
                    results += _marks(compared, name, answered)
                add_evaluation(directory, results)
                written.append(directory)
    return written


def _results(compared: ComparedTask, name: str, scores: Scores) -> Iterator[EvalResult]:
    figures = scores.summary()
    tested = f"{name}, {figures['n']} test samples"
    for metric in ("exact_match", "nll"):
        yield _result(compared, tested, metric, figures[metric])


def _marks(compared: ComparedTask, name: str, answers: Answers) -> Iterator[EvalResult]:
    for mark, figures in answers.summary()["marks"].items():
        tested = f"{name}, {figures['n']} generated answers"
        yield _result(compared, tested, mark, figures["mean"])


def _result(
    compared: ComparedTask, tested: str, metric: str, value: float
) -> EvalResult:
    return EvalResult(
        task_type="text-generation",
        dataset_type=compared.task.kind,
        dataset_name=tested,
        metric_type=metric,
        metric_value=round(value, 4),
    )
