"""Figures of an evaluation on the model cards of the decoders that were evaluated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from huggingface_hub import EvalResult

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
    tasks: Sequence[ComparedTask], accuracy: dict[str, dict[str, Scores]]
) -> list[Path]:
    """Put exact match and NLL on every card; returns the decoders' directories.

    A decoder of several tasks (`one_model`), and decoders read otherwise than they
    were trained to be, are left out.
    """
    written = []
    for compared in tasks:
        name = build_task(compared.task).name
        for system, key in _AS_TRAINED.items():
            directory: Path | None = getattr(compared, key)
            if directory is not None:
                scores = accuracy[system][name]
                add_evaluation(directory, list(_results(compared, name, scores)))
                written.append(directory)
    return written


def _results(compared: ComparedTask, name: str, scores: Scores) -> Iterator[EvalResult]:
    figures = scores.summary()
    for metric in ("exact_match", "nll"):
        yield EvalResult(
            task_type="text-generation",
            dataset_type=compared.task.kind,
            dataset_name=f"{name}, {figures['n']} test samples",
            metric_type=metric,
            metric_value=round(figures[metric], 4),
        )
