"""What commands print: lines, tables and progress, on a terminal and elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

# Where there is no bar, nothing is heard of a run for so long at most, but for a step
# that takes longer.
QUIET_SECONDS = 30.0


class Tick(Protocol):
    """Called after each step with a short note."""

    def __call__(self, note: str) -> None: ...


def say(text: str) -> None:
    """One plain line on stdout, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table; figures to the right."""
    drawn = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        drawn.add_column(column, justify="left" if i == 0 else "right")
    for row in rows:
        drawn.add_row(*row)
    width = None if sys.stdout.isatty() else 100
    Console(width=width).print(drawn)


@contextmanager
def progress(title: str, total: int, every: int = 10) -> Iterator[Tick]:
    """A bar on a terminal; elsewhere a line every `every` steps, or half a minute."""
    if sys.stdout.isatty():
        columns = (
            TextColumn(title),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns) as bar:
            task = bar.add_task(title, total=total, note="")
            yield lambda note: bar.update(task, advance=1, note=note)
        return
    done, began = 0, monotonic()
    told = began

    def tick(note: str) -> None:
        nonlocal done, told
        done += 1
        now = monotonic()
        if done % every == 0 or done == total or now - told >= QUIET_SECONDS:
            told = now
            say(f"{title}: {done}/{total} {note}{_left(now - began, done, total)}")

    yield tick


def _left(seconds: float, done: int, total: int) -> str:
    """How long the rest takes, where that is worth a word."""
    rest = seconds / done * (total - done)
    return f", about {rest / 60:.0f} min left" if rest >= 60 else ""


ROLES = {
    "base": "the base model, untuned",
    "full": "ordinary fine-tune, own prefill",
    "naive": "that same decoder on the base's cache",
    "shared": "cache-conditioned, on the base's cache",
    "tuned": "cache-conditioned, on the cache of a module tuned to be read",
    "shared_full": "cache-conditioned with all weights its own",
    "alora": "cache-conditioned adapter, one pass that switches it on at the boundary",
    "recompute": "the full decoder, some layers of the base's cache computed anew",
    "recomputed": "trained with those layers of the base's cache computed anew",
    "icarus": "all keys and values from the base, the decoder only reads",
    "one_model": "one model that learned all tasks, own prefill",
    "no_context": "the shared decoder without the context (floor)",
}


def accuracy_table(accuracy: dict[str, Any]) -> None:
    """NLL and exact match by system and task, with 95 % intervals."""
    rows = [
        [
            system,
            task,
            f"{figures['nll']:.3f}",
            "{:.3f}–{:.3f}".format(*figures["ci"]["nll"]),
            f"{100 * figures['exact_match']:.0f} %",
            "{:.0f}–{:.0f} %".format(*(100 * x for x in figures["ci"]["exact_match"])),
            str(figures["n"]),
        ]
        for system, tasks in accuracy.items()
        for task, figures in tasks.items()
    ]
    table(
        "Accuracy on held-out case files (NLL: nats per response token)",
        ["system", "task", "NLL", "95 %", "exact", "95 %", "n"],
        rows,
    )
    for system in accuracy:
        # `recomputed_FIRST_LAST` is one of several.
        kind = "recomputed" if system.startswith("recomputed_") else system
        say(f"  {system}: {ROLES[kind]}")


def differences_table(paired: dict[str, Any]) -> None:
    """What sharing gains over naive sharing, and what it costs against `full`."""
    names = {
        "naive_minus_shared": "naive − shared (gain of cache-conditioning)",
        "full_minus_shared": "full − shared (below 0: what sharing costs)",
    }
    rows = [
        [
            names.get(name, name.replace("_minus_", " − ")),
            task,
            f"{x['mean']:+.3f}",
            f"{x['low']:+.4f} to {x['high']:+.4f}",
        ]
        for name, tasks in paired.items()
        for task, x in tasks.items()
    ]
    table("Paired differences of NLL", ["", "task", "nats", "95 %"], rows)
