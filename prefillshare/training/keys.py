"""Digests by which a kept result is recognised as what the settings ask for.

They cover what differs from the defaults, so a setting that is added later, with a
default that changes nothing, invalidates no result; and the files of data by their
contents, wherever those lie.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from prefillshare.config import Config
from prefillshare.training.settings import TaskSettings


def digest(about: Any) -> str:
    """Of a value made of JSON's types."""
    text = json.dumps(about, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Of a file's contents; of its name if there is no such file."""
    if not path.is_file():
        return str(path)
    about = path.stat()
    return _contents(path.resolve(), about.st_mtime_ns, about.st_size)


def chosen_task(task: TaskSettings) -> dict[str, Any]:
    """A task's kind, and what is not the default of its kind."""
    return {"kind": task.kind, **_by_contents(task.model_dump(exclude_defaults=True))}


def chosen(
    settings: Config, tasks: Iterable[TaskSettings], free: Iterable[str]
) -> dict[str, Any]:
    """What settings over `tasks` set otherwise than the defaults, but for `free`."""
    apart = {*free, "task", "tasks"}
    fields = settings.model_dump(mode="json", exclude_defaults=True, exclude=apart)
    return {**fields, "tasks": [chosen_task(each) for each in tasks]}


def _by_contents(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _by_contents(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_by_contents(each) for each in value]
    return file_digest(value) if isinstance(value, Path) else value


@lru_cache(maxsize=64)
def _contents(path: Path, _modified: int, _size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
