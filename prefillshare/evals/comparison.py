"""The comparison set on the same test units: who prefills, who reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from transformers import PreTrainedModel

from prefillshare.config import Config
from prefillshare.errors import IdentityError
from prefillshare.evals.runner import Scores, evaluate
from prefillshare.evals.statistics import paired_difference
from prefillshare.kv.identity import ModelId
from prefillshare.models.decoder import Decoder
from prefillshare.models.loading import (
    load_model,
    load_tokenizer,
    model_context_tokens,
)
from prefillshare.training.data import Group, Tokenisation
from prefillshare.training.schemes.base import Scheme
from prefillshare.training.schemes.cached import Cached
from prefillshare.training.schemes.icarus import Icarus
from prefillshare.training.schemes.one_row import Own
from prefillshare.training.schemes.recompute import Recompute
from prefillshare.training.settings import CaseFiles, TaskSettings, build_task


class ComparedTask(Config):
    """One task's test units and the decoders trained for it.

    `own` is scored with its own prefill (`full`), on the base's cache (`naive`) and,
    with `recompute: [first, last]`, with those layers of the prompt computed anew
    (`recompute`). `one_model` learned all tasks with its own prefill.
    """

    task: TaskSettings
    shared: Path
    own: Path
    icarus: Path | None = None
    one_model: Path | None = None
    recompute: tuple[int, int] | None = None


class EvalSettings(Config):
    """Which decoders to compare on which tasks."""

    model: Path
    tasks: list[ComparedTask] = Field(min_length=1)
    dtype: Literal["float64", "float32", "bfloat16"] = "float32"
    no_context: bool = True
    units_per_pass: int = Field(1, ge=1)


Accuracy = dict[str, dict[str, Scores]]


@dataclass(frozen=True)
class _System:
    """A pair under test, and whether the context is left out."""

    name: str
    scheme: Scheme
    decoder: Any
    floor: bool = False


def compare(
    settings: EvalSettings, say: Callable[[str], None] | None = None
) -> Accuracy:
    """Scores by system and task; `no_context` is the shared decoder's floor.

    Raises:
        IdentityError: a decoder belongs to another module, or to the other prefill.
    """
    base = load_model(settings.model, getattr(torch, settings.dtype))
    base_id = ModelId.from_directory(settings.model)
    scores: Accuracy = {}
    for compared in settings.tasks:
        name = build_task(compared.task).name
        shared = _load(compared.shared, base, base_id, compared, "shared")
        boundary = shared.record.boundary
        tokenisation = Tokenisation(
            load_tokenizer(settings.model),
            boundary,
            model_context_tokens(settings.model),
        )
        groups = tokenisation.groups(build_task(compared.task), "test")
        for system in _systems(settings, compared, base, base_id, shared):
            units = _floor(compared, tokenisation) if system.floor else groups
            scores.setdefault(system.name, {})[name] = evaluate(
                system.scheme,
                system.decoder,
                units,
                units_per_pass=settings.units_per_pass,
            )
            if say is not None:
                say(f"evaluated {system.name} on {name}")
    return scores


def _systems(
    settings: EvalSettings,
    compared: ComparedTask,
    base: PreTrainedModel,
    base_id: ModelId,
    shared: Decoder,
) -> list[_System]:
    own = _load(compared.own, base, base_id, compared, "own")
    if own.record.boundary != shared.record.boundary:
        raise IdentityError(
            f"the decoders of {own.record.name} have boundaries {own.record.boundary} "
            f"and {shared.record.boundary}; compare decoders with the same one"
        )
    systems = [
        _System("base", Cached(base), base),
        _System("full", Own(), own.model),
        _System("naive", Cached(base), own.model),
        _System("shared", Cached(base), shared.model),
    ]
    if compared.recompute is not None:
        scheme = Recompute(base, *compared.recompute)
        systems.append(_System("recompute", scheme, own.model))
    if compared.icarus is not None:
        icarus = _load(compared.icarus, base, base_id, compared, "icarus")
        systems.append(_System("icarus", Icarus(base), icarus.model))
    if compared.one_model is not None:
        one = Decoder.load(compared.one_model, base, base_id)
        one.record.require_prefill("own")
        systems.append(_System("one_model", Own(), one.model))
    if settings.no_context and isinstance(compared.task, CaseFiles):
        systems.append(_System("no_context", Cached(base), shared.model, floor=True))
    return systems


def _floor(compared: ComparedTask, tokenisation: Tokenisation) -> list[Group]:
    bare = compared.task.model_copy(update={"with_context": False})
    return tokenisation.groups(build_task(bare), "test")


def _load(
    directory: Path,
    base: PreTrainedModel,
    base_id: ModelId,
    compared: ComparedTask,
    prefill: Any,
) -> Decoder:
    """A decoder, checked to be the one that the settings say."""
    decoder = Decoder.load(directory, base, base_id)
    record, task = decoder.record, build_task(compared.task)
    record.require_prefill(prefill)
    if (record.name, record.suffix) != (task.name, task.suffix):
        raise IdentityError(
            f"a decoder of {record.name!r} with the suffix {record.suffix!r} is listed "
            f"for task {task.name!r}; name the decoder that was trained for it"
        )
    return decoder


def summarise(accuracy: Accuracy) -> dict[str, Any]:
    """Per system and task the figures of `Scores.summary`."""
    return {
        system: {task: scores.summary() for task, scores in tasks.items()}
        for system, tasks in accuracy.items()
    }


def differences(accuracy: Accuracy) -> dict[str, Any]:
    """Paired: NLL of `naive` and of `full` minus that of `shared`, per task."""
    return {
        f"{other}_minus_shared": {
            task: vars(
                paired_difference(accuracy[other][task].nll, shared.nll, shared.context)
            )
            for task, shared in accuracy["shared"].items()
        }
        for other in ("naive", "full")
    }
