"""The comparison set on the same test units: who prefills, who reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from accelerate import Accelerator
from pydantic import Field

from prefillshare.config import Config
from prefillshare.evals.answers import (
    Answers,
    generate_answers,
    paired_marks,
    score_answers,
    serving_prefill,
)
from prefillshare.evals.noninferiority import non_inferiority
from prefillshare.evals.runner import Scores, evaluate
from prefillshare.evals.statistics import paired_difference
from prefillshare.evals.systems import ComparedTask as ComparedTask
from prefillshare.evals.systems import System, require_fitting, systems
from prefillshare.kv.identity import ModelId
from prefillshare.models.decoder import Decoder
from prefillshare.models.loading import (
    load_model,
    load_tokenizer,
    model_context_tokens,
)
from prefillshare.models.record import DecoderRecord
from prefillshare.tasks.base import Task
from prefillshare.training.data import Group, Tokenisation
from prefillshare.training.prefixes import PrefixStore
from prefillshare.training.settings import CaseFiles, PrefixSettings, build_task


class EvalSettings(Config):
    """Which decoders to compare on which tasks.

    `shared` is non-inferior to another system if it gets at most `margin` fewer of
    the answers right: choose it before any score is seen.

    `generate` is the number of test units to generate answers for and score as the
    task does (null: none), each of at most `max_tokens`; slow, token by token.

    `cards` puts the figures on the decoders' model cards.
    """

    model: Path
    tasks: list[ComparedTask] = Field(min_length=1)
    dtype: Literal["float64", "float32", "bfloat16"] = "float32"
    no_context: bool = True
    units_per_pass: int = Field(1, ge=1)
    margin: float = Field(0.01, gt=0.0, lt=1.0)
    generate: int | None = Field(None, ge=1)
    max_tokens: int = Field(256, ge=1)
    cards: bool = False


T = TypeVar("T")
Accuracy = dict[str, dict[str, Scores]]
# By system and task.
Answered = dict[str, dict[str, Answers]]


def compare(
    settings: EvalSettings, say: Callable[[str], None] | None = None
) -> Accuracy:
    """Scores by system and task; `no_context` is the shared decoder's floor.

    Raises:
        IdentityError: a decoder belongs to another module, task or prefill.
        UnsupportedModelError: a scheme that the model's layers do not allow.
    """
    scores: Accuracy = {}
    for compared, task, tokenisation, pairs in _by_task(settings):
        groups = tokenisation.groups(task, "test")
        bare = _floor(settings, compared, tokenisation)
        for system in pairs:
            units = bare if system.floor else groups
            if not units:
                continue
            scores.setdefault(system.name, {})[task.name] = evaluate(
                system.scheme,
                system.decoder,
                units,
                units_per_pass=settings.units_per_pass,
            )
            if say is not None:
                say(f"evaluated {system.name} on {task.name}")
    return scores


def answer(
    settings: EvalSettings, say: Callable[[str], None] | None = None
) -> Answered:
    """Generated answers of every system that can be served, marked by the task.

    Empty if `settings.generate` is None. Left out are those that mix two models within
    a prompt, and `no_context`.

    Raises:
        IdentityError, UnsupportedModelError: as `compare`.
        SandboxError: a task runs programs and this machine cannot confine them.
    """
    answers: Answered = {}
    if settings.generate is None:
        return answers
    digest = ModelId.from_directory(settings.model).digest
    for _, task, tokenisation, pairs in _by_task(settings):
        units = tokenisation.usable(task, "test")[: settings.generate]
        for system in pairs:
            prefill = serving_prefill(system.scheme, system.decoder)
            if prefill is None or system.floor:
                continue
            record = DecoderRecord(
                system.name,
                digest,
                "own" if prefill.model is system.decoder else "shared",
                tokenisation.boundary,
                task.suffix,
            )
            texts = generate_answers(
                prefill,
                Decoder(system.decoder, record),
                tokenisation,
                units,
                max_tokens=settings.max_tokens,
            )
            marked = score_answers(task, units, texts)
            answers.setdefault(system.name, {})[task.name] = marked
            if say is not None:
                say(f"generated {len(texts)} answers of {system.name} to {task.name}")
    return answers


def _by_task(
    settings: EvalSettings,
) -> Iterator[tuple[ComparedTask, Task, Tokenisation, Iterator[System]]]:
    """Each task, how its text becomes tokens, and the systems, loaded when due."""
    base_id = ModelId.from_directory(settings.model)
    boundaries = [require_fitting(each, base_id) for each in settings.tasks]
    base = load_model(settings.model, getattr(torch, settings.dtype))
    torch.nn.Module.to(base, Accelerator().device)
    # Systems and tasks are tested over the same contexts.
    store = PrefixStore(PrefixSettings().memory_bytes)
    for compared, boundary in zip(settings.tasks, boundaries, strict=True):
        tokenisation = Tokenisation(
            load_tokenizer(settings.model),
            boundary,
            model_context_tokens(settings.model),
        )
        task = build_task(compared.task)
        yield compared, task, tokenisation, systems(compared, base, base_id, store)


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


def mark_verdicts(answers: Answered, margin: float) -> dict[str, Any]:
    """`verdicts` by the scorer's marks instead of exact match: another level inside."""
    found: dict[str, Any] = {}
    for other, task, theirs, shared in _beside_shared(answers):
        for mark, (ours, others, units) in paired_marks([shared], [theirs]).items():
            if len(set(units)) > 1:
                tested = non_inferiority(ours, others, margin, units)
                by_task = found.setdefault(f"shared_minus_{other}", {})
                by_task.setdefault(task, {})[mark] = vars(tested)
    return found


def _beside_shared(
    found: Mapping[str, Mapping[str, T]],
) -> Iterator[tuple[str, str, T, T]]:
    """Every other system and task, what it has and what `shared` has, where both do."""
    for other, tasks in found.items():
        for task, theirs in tasks.items():
            shared = found.get("shared", {}).get(task)
            if other != "shared" and shared is not None:
                yield other, task, theirs, shared
