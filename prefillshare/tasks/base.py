"""What a task is: text only. Tokenising it is the business of `training.data`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Split = Literal["train", "test"]
Message = dict[str, str]
# What a user asks where a task is asked without its context: the floor.
NOT_SHOWN = "(not shown)"


@dataclass(frozen=True)
class Sample:
    """One turn to learn or to test.

    Attributes:
        messages: the shared context first, then the transcript so far.
        suffix: what the router appends for the agent; never part of the transcript.
        answer: the reference response.
        fact_start: where in `messages[0]["content"]` the needed fact starts, in
            characters; None where no single place decides.
        depth: hand-off depth: 1 for the first agent of a chain.
        facts: what a scorer needs beside the reference (a problem's tests, say).
        optional: left out where it cannot be used (too long, say), not refused.
    """

    messages: tuple[Message, ...]
    suffix: str
    answer: str
    fact_start: int | None = None
    depth: int = 1
    facts: Mapping[str, Any] = field(default_factory=dict)
    optional: bool = False


# Samples over one context: their common prefix is prefilled once. The turns of one
# conversation form a unit too; an independent sample is a unit of one.
Unit = tuple[Sample, ...]

# Which parts of a response are right, by field; "exact" is always among them.
Marks = dict[str, bool]


def commonest_share(units: Sequence[Unit]) -> float:
    """Which share of the samples the commonest reference answers right.

    What exact match is worth where nothing was read: a floor for whoever can only
    learn what is usual.
    """
    answers = Counter(sample.answer for unit in units for sample in unit)
    return max(answers.values(), default=0) / max(1, answers.total())


class Task(Protocol):
    """Something to learn, with its examples and its scorer."""

    @property
    def name(self) -> str:
        """The agent's name: a decoder for this task carries it."""

    @property
    def suffix(self) -> str:
        """The agent suffix of all samples."""

    def units(self, split: Split) -> list[Unit]:
        """All units of a split. Deterministic."""

    def score(self, sample: Sample, response: str) -> Marks:
        """Mark a response to `sample`."""
