"""The comparison set on the same test units: who prefills, who reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from prefillshare.config import Config
from prefillshare.evals.noninferiority import non_inferiority
from prefillshare.evals.runner import Scores, evaluate
from prefillshare.evals.statistics import paired_difference
from prefillshare.evals.systems import ComparedTask as ComparedTask
from prefillshare.evals.systems import require_fitting, systems
from prefillshare.kv.identity import ModelId
from prefillshare.models.loading import (
    load_model,
    load_tokenizer,
    model_context_tokens,
)
from prefillshare.training.data import Group, Tokenisation
from prefillshare.training.settings import CaseFiles, build_task


class EvalSettings(Config):
    """Which decoders to compare on which tasks.

    `shared` is non-inferior to another system if it gets at most `margin` fewer of
    the answers right: choose it before any score is seen.
    """

    model: Path
    tasks: list[ComparedTask] = Field(min_length=1)
    dtype: Literal["float64", "float32", "bfloat16"] = "float32"
    no_context: bool = True
    units_per_pass: int = Field(1, ge=1)
    margin: float = Field(0.01, gt=0.0, lt=1.0)


Accuracy = dict[str, dict[str, Scores]]


def compare(
    settings: EvalSettings, say: Callable[[str], None] | None = None
) -> Accuracy:
    """Scores by system and task; `no_context` is the shared decoder's floor.

    Raises:
        IdentityError: a decoder belongs to another module, task or prefill.
        UnsupportedModelError: a scheme that the model's layers do not allow.
    """
    base_id = ModelId.from_directory(settings.model)
    boundaries = [require_fitting(each, base_id) for each in settings.tasks]
    base = load_model(settings.model, getattr(torch, settings.dtype))
    scores: Accuracy = {}
    for compared, boundary in zip(settings.tasks, boundaries, strict=True):
        name = build_task(compared.task).name
        tokenisation = Tokenisation(
            load_tokenizer(settings.model),
            boundary,
            model_context_tokens(settings.model),
        )
        groups = tokenisation.groups(build_task(compared.task), "test")
        bare = _floor(settings, compared, tokenisation)
        for system in systems(compared, base, base_id):
            units = bare if system.floor else groups
            if not units:
                continue
            scores.setdefault(system.name, {})[name] = evaluate(
                system.scheme,
                system.decoder,
                units,
                units_per_pass=settings.units_per_pass,
            )
            if say is not None:
                say(f"evaluated {system.name} on {name}")
    return scores


def _floor(
    settings: EvalSettings, compared: ComparedTask, tokenisation: Tokenisation
) -> list[Group]:
    """The test units without their contexts; none if that is not asked for."""
    if not settings.no_context or not isinstance(compared.task, CaseFiles):
        return []
    bare = compared.task.model_copy(update={"with_context": False})
    return tokenisation.groups(build_task(bare), "test")


def summarise(accuracy: Accuracy) -> dict[str, Any]:
    """Per system and task the figures of `Scores.summary`."""
    return {
        system: {task: scores.summary() for task, scores in tasks.items()}
        for system, tasks in accuracy.items()
    }


def differences(accuracy: Accuracy) -> dict[str, Any]:
    """Paired: the NLL of every other system minus that of `shared`, per task."""
    found: dict[str, Any] = {}
    for other, task, theirs, shared in _beside_shared(accuracy):
        interval = paired_difference(theirs.nll, shared.nll, shared.context)
        found.setdefault(f"{other}_minus_shared", {})[task] = vars(interval)
    return found


def verdicts(accuracy: Accuracy, margin: float) -> dict[str, Any]:
    """Is `shared` non-inferior in exact match to every other system, per task?

    The figures of `NonInferiority`. A task with one test context has no spread to
    judge by and is left out.
    """
    found: dict[str, Any] = {}
    for other, task, theirs, shared in _beside_shared(accuracy):
        if len(set(shared.context)) > 1:
            tested = non_inferiority(
                [shared.exact], [theirs.exact], margin, shared.context
            )
            found.setdefault(f"shared_minus_{other}", {})[task] = vars(tested)
    return found


def _beside_shared(accuracy: Accuracy) -> Iterator[tuple[str, str, Scores, Scores]]:
    """Every other system and task, its scores and those of `shared`, where both are."""
    for other, tasks in accuracy.items():
        for task, theirs in tasks.items():
            shared = accuracy.get("shared", {}).get(task)
            if other != "shared" and shared is not None:
                yield other, task, theirs, shared
