"""Case files as a task of one agent."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path

from prefillshare.errors import DataError
from prefillshare.tasks.base import Marks, Sample, Split, Unit
from prefillshare.tasks.casefile.agents import Agent, agent_named
from prefillshare.tasks.casefile.chains import default_depths, turns
from prefillshare.tasks.casefile.formats import Format
from prefillshare.tasks.casefile.generate import Case, generate
from prefillshare.tasks.casefile.summaries import summary_of


@dataclass(frozen=True)
class CaseFileTask:
    """`contexts` case files with `questions` questions each: one unit a case file.

    With `records_max`, the number of records runs evenly from `records` to it, so
    that contexts differ in length. Hand-off depths are taken in turn from `depths`,
    by default `default_depths`. Tasks that differ in nothing but the agent have the
    same contexts. The judge's samples come in pairs, one behind the other, whose
    `facts` name the `pair` and what `chains.Turn` says. With `summaries`, a file, the
    summary of each case file is shown in its place.

    Raises:
        DataError: there is no such agent or format, or no depth.
    """

    agent: str
    contexts: int = 64
    records: int = 18
    records_max: int | None = None
    questions: int = 8
    depths: tuple[int, ...] | None = None
    seed: int = 0
    with_context: bool = True
    format: Format = "line"
    summaries: Path | None = None

    def __post_init__(self) -> None:
        agent_named(self.agent).over(self.format)
        if not self._depths:
            raise DataError(
                f"agent {self.agent!r} was given no hand-off depth; leave `depths` "
                "out, or name one at least"
            )

    @property
    def name(self) -> str:
        """The agent's."""
        return self.agent

    @property
    def suffix(self) -> str:
        """The agent's."""
        return self._agent.suffix

    @property
    def _agent(self) -> Agent:
        return agent_named(self.agent).over(self.format)

    @property
    def _depths(self) -> tuple[int, ...]:
        return default_depths(self.agent) if self.depths is None else self.depths

    def units(self, split: Split) -> list[Unit]:
        """One unit a case file, in order of size if the sizes differ."""
        return [self._unit(split, i) for i in range(self.contexts)]

    def score(self, sample: Sample, response: str) -> Marks:
        """By the fields of the agent's form."""
        return self._agent.score(sample.answer, response)

    def case(self, split: Split, index: int) -> Case:
        """The case file of unit `index`."""
        case = generate(
            split,
            self.seed + index,
            records=self._records(index),
            questions=self.questions,
            with_context=self.with_context,
            format=self.format,
        )
        if self.summaries is None:
            return case
        return replace(case, context=summary_of(case.context, self.summaries))

    def _records(self, index: int) -> int:
        extra = (self.records_max or self.records) - self.records
        return self.records + extra * index // max(1, self.contexts - 1)

    def _unit(self, split: Split, index: int) -> Unit:
        case = self.case(split, index)
        rng = random.Random(f"turns/{split}/{self.seed + index}/{self.agent}")
        samples: list[Sample] = []
        for i, question in enumerate(case.questions):
            depth = self._depths[i % len(self._depths)]
            pair = f"{self.seed + index}/{question.record.number}"
            shown = self.with_context and self.summaries is None
            start = question.fact_start if shown else None
            samples += [
                Sample(
                    turn.messages,
                    self.suffix,
                    turn.answer,
                    start,
                    turn.depth,
                    {"pair": pair, **turn.facts} if turn.facts else {},
                )
                for turn in turns(case, question, self._agent, depth, rng)
            ]
        return tuple(samples)
