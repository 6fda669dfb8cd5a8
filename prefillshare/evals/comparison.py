"""The four systems on one task: base, full, naive and shared."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from prefillshare.config import Config
from prefillshare.errors import IdentityError
from prefillshare.evals.runner import Scores, evaluate
from prefillshare.evals.statistics import paired_difference
from prefillshare.kv.identity import ModelId
from prefillshare.models.decoder import Decoder
from prefillshare.models.loading import load_model, load_tokenizer
from prefillshare.training.data import CaseFileData, agent_named

SYSTEMS = ("base", "full", "naive", "shared")


class TaskSettings(Config):
    """One agent's pair of decoders."""

    agent: Literal["shipping", "invoicing"]
    shared: Path
    own: Path


class EvalSettings(Config):
    """Which decoders to compare, on which generated test cases."""

    model: Path
    tasks: list[TaskSettings] = Field(min_length=1)
    dtype: Literal["float64", "float32", "bfloat16"] = "float32"
    contexts: int = Field(8, ge=1)
    records: int = Field(18, ge=1)
    records_max: int | None = Field(None, ge=1)
    questions: int = Field(8, ge=1)
    seed: int = 0
    no_context: bool = True


Accuracy = dict[str, dict[str, Scores]]


def compare(settings: EvalSettings, say: Any = None) -> Accuracy:
    """Scores by system and task; `no_context` is the shared decoder's floor.

    `full` and `naive` are one decoder: on its own cache, and on the base's.

    Raises:
        IdentityError: a decoder belongs to another module, or to the other prefill.
    """
    base = load_model(settings.model, getattr(torch, settings.dtype))
    base_id = ModelId.from_directory(settings.model)
    scores: Accuracy = {}
    for task in settings.tasks:
        shared = Decoder.load(task.shared, base, base_id)
        own = Decoder.load(task.own, base, base_id)
        shared.record.require_prefill("shared")
        own.record.require_prefill("own")
        _require_task(task.agent, shared)
        _require_task(task.agent, own)
        if own.record.boundary != shared.record.boundary:
            raise IdentityError(
                f"the decoders of {task.agent} have boundaries {own.record.boundary} "
                f"and {shared.record.boundary}; compare decoders with the same one"
            )
        pairs = {
            "base": (base, base),
            "full": (own.model, own.model),
            "naive": (base, own.model),
            "shared": (base, shared.model),
        }
        if settings.no_context:
            pairs["no_context"] = (base, shared.model)
        for system, (prefill, decoder) in pairs.items():
            groups = _groups(settings, shared, system != "no_context")
            scores.setdefault(system, {})[task.agent] = evaluate(
                prefill, decoder, groups
            )
            if say is not None:
                say(f"evaluated {system} on {task.agent}")
    return scores


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


def _require_task(agent: str, decoder: Decoder) -> None:
    record = decoder.record
    if (record.name, record.suffix) != (agent, agent_named(agent).suffix):
        raise IdentityError(
            f"a decoder of {record.name!r} with the suffix {record.suffix!r} is listed "
            f"for agent {agent!r}; name the decoder that was trained for it"
        )


def _groups(settings: EvalSettings, decoder: Decoder, with_context: bool) -> Any:
    data = CaseFileData(
        "test",
        settings.contexts,
        settings.records,
        settings.questions,
        settings.seed,
        with_context,
        settings.records_max,
    )
    agent = agent_named(decoder.record.name)
    return data.groups(load_tokenizer(settings.model), agent, decoder.record.boundary)
