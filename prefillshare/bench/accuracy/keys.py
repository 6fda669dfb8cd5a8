"""Digests by which a kept result is recognised as what the settings ask for.

They cover what differs from the defaults, so a setting that is added later, with a
default that changes nothing, invalidates no result.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from prefillshare.training.settings import PrefillSettings, TaskSettings, TrainSettings


def digest(about: Any) -> str:
    """Of a value made of JSON's types."""
    text = json.dumps(about, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def chosen_task(task: TaskSettings) -> dict[str, Any]:
    """A task's kind, and what is not the default of its kind."""
    return {"kind": task.kind, **task.model_dump(mode="json", exclude_defaults=True)}


def chosen(
    settings: TrainSettings | PrefillSettings, free: frozenset[str]
) -> dict[str, Any]:
    """What a training run sets otherwise than the defaults, but for the keys `free`."""
    apart = {*free, "task", "tasks"}
    fields = settings.model_dump(mode="json", exclude_defaults=True, exclude=apart)
    tasks = (
        settings.every_task()
        if isinstance(settings, TrainSettings)
        else list(settings.tasks)
    )
    return {**fields, "tasks": [chosen_task(each) for each in tasks]}
