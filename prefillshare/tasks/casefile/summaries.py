"""Summaries that stand in for case files, as a file of JSON has them."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path

from prefillshare.errors import DataError


def context_key(context: str) -> str:
    """By which the summary of a context is found."""
    return hashlib.sha256(context.encode()).hexdigest()[:16]


def read_summaries(path: Path) -> dict[str, str]:
    """All summaries of a file, by `context_key`.

    Raises:
        DataError: it is missing or not that.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not all(map(_is_text, found.values())):
            raise ValueError("it is no object of texts")
    except (OSError, ValueError) as error:
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
def _kept(path: Path, _modified: int) -> dict[str, str]:
    return read_summaries(path)


def _is_text(value: object) -> bool:
    return isinstance(value, str)
