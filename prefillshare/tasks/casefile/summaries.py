"""Summaries that stand in for case files, as a file of JSON has them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from prefillshare.errors import DataError


def context_key(context: str) -> str:
    """By which the summary of a context is found."""
    return hashlib.sha256(context.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Summaries:
    """`texts` by `context_key`; `writer` says which model wrote them, and how long."""

    writer: Mapping[str, Any]
    texts: Mapping[str, str]


def write_summaries(path: Path, summaries: Summaries) -> None:
    """Replace the file at `path`, all of it or nothing."""
    fresh = path.with_suffix(".partial")
    fresh.write_text(json.dumps(asdict(summaries), indent=1, sort_keys=True) + "\n")
    fresh.replace(path)


def read_summaries(path: Path) -> Summaries:
    """All summaries of a file.

    Raises:
        DataError: it is missing or not that.
    """
    try:
        found = Summaries(**json.loads(path.read_text(encoding="utf-8")))
        if not all(isinstance(text, str) for text in found.texts.values()):
            raise ValueError("some are no texts")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} holds no summaries: {error}; `prefillshare bridge eval` writes "
            "those that its systems name"
        ) from error
    return found


def summary_of(context: str, path: Path) -> str:
    """What stands in for `context`.

    Raises:
        DataError: it was not summed up.
    """
    found = _kept(path, path.stat().st_mtime_ns if path.exists() else 0)
    key = context_key(context)
    if key not in found:
        raise DataError(
            f"{path} has no summary of the case file that begins {context[:40]!r}; "
            "`prefillshare bridge eval` writes what is missing"
        )
    return found[key]


@lru_cache(maxsize=8)
def _kept(path: Path, _modified: int) -> Mapping[str, str]:
    return read_summaries(path).texts
