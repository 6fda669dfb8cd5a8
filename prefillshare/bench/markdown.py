"""Markdown for the pages of results."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any


def opening(
    title: str,
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    command: str,
    note: str,
) -> Iterator[str]:
    """How a page begins: title and date, the command, the machine and,
    for those that have one, the model.

    `note` says what the figures do not: the state of the machine, say.
    """
    yield f"# {title}, {datetime.date.today().isoformat()}\n"
    yield f"`{command}`\n"
    machine = (
        f"Commit {environment['commit']}; torch {environment['torch']}, transformers "
        f"{environment['transformers']}; {hardware(environment)}."
    )
    if "model" in config:
        machine += (
            f" Model: {config['model'] or 'SmolLM2-135M-Instruct'}. Figures of another "
            "precision or processor are not to be compared with these."
        )
    yield f"{machine}\n"
    if note:
        yield f"{note}\n"


def hardware(environment: Mapping[str, Any]) -> str:
    """The processor of an environment, and its GPU if it has one."""
    cores = f"{environment.get('cpu_count')} cores of {environment.get('cpu')}"
    gpu = environment.get("gpu")
    return f"{cores}, with {gpu}" if gpu else cores


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with a line for each of `rows`."""
    lines = [_line(columns), "|" + "---|" * len(columns), *map(_line, rows)]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def commonest(shares: Mapping[str, float]) -> str:
    """What exact match is worth that comes of always giving the usual answer."""
    told = "; ".join(f"{test} {share:.1%}" for test, share in shares.items())
    return f"Always the commonest reference answer would be right on: {told}.\n"
