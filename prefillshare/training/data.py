"""Tokenised examples, grouped by the context that they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from transformers import PreTrainedTokenizerBase

from prefillshare.errors import DataError
from prefillshare.models.prompt import Boundary, Prompt, lay_out
from prefillshare.tasks.casefile import AGENTS, Agent, Case, Question, Split, generate


@dataclass(frozen=True)
class Example:
    """A prompt and the response to learn, which ends with the end-of-turn token.

    `distance` is about the number of tokens from the fact to the boundary: characters
    scaled by the mean characters per token of the context.
    """

    prompt: Prompt
    response: tuple[int, ...]
    distance: int = 0

    @property
    def decoder_ids(self) -> tuple[int, ...]:
        """What the decoder reads in training: all but the last response token."""
        return self.prompt.remainder + self.response[:-1]


@dataclass(frozen=True)
class ContextGroup:
    """Examples over one context, whose common prefix is prefilled once."""

    examples: tuple[Example, ...]
    common_tokens: int

    @classmethod
    def of(cls, examples: Sequence[Example]) -> Self:
        """Group `examples`; the common prefix ends before the earliest boundary."""
        if not examples:
            raise DataError("a context group needs at least one example, got none")
        common = min(e.prompt.boundary for e in examples)
        first = examples[0].prompt.token_ids
        for example in examples[1:]:
            ids = example.prompt.token_ids
            common = next((i for i in range(common) if ids[i] != first[i]), common)
        return cls(tuple(examples), common)


@dataclass(frozen=True)
class CaseFileData:
    """Which case files to generate; see `tasks.casefile.generate`."""

    split: Split
    contexts: int
    records: int
    questions: int
    seed: int = 0
    with_context: bool = True

    def groups(
        self, tokenizer: PreTrainedTokenizerBase, agent: Agent, boundary: Boundary
    ) -> list[ContextGroup]:
        """All groups, tokenised. Deterministic."""
        return [
            casefile_group(
                tokenizer,
                generate(
                    self.split,
                    self.seed + i,
                    records=self.records,
                    questions=self.questions,
                    with_context=self.with_context,
                ),
                agent,
                boundary,
            )
            for i in range(self.contexts)
        ]


def casefile_group(
    tokenizer: PreTrainedTokenizerBase, case: Case, agent: Agent, boundary: Boundary
) -> ContextGroup:
    """One case as `agent` sees it."""
    context_ids = tokenizer(case.context, add_special_tokens=False)["input_ids"]
    per_character = len(context_ids) / len(case.context)
    return ContextGroup.of(
        [
            _example(tokenizer, case, question, agent, boundary, per_character)
            for question in case.questions
        ]
    )


def messages_of(case: Case, question: Question) -> list[dict[str, str]]:
    """The shared context, then the transcript so far."""
    return [
        {"role": "system", "content": case.context},
        {"role": "user", "content": question.request},
    ]


def _example(
    tokenizer: PreTrainedTokenizerBase,
    case: Case,
    question: Question,
    agent: Agent,
    boundary: Boundary,
    per_character: float,
) -> Example:
    prompt = lay_out(tokenizer, messages_of(case, question), agent.suffix, boundary)
    answer = tokenizer(agent.answer(question.record), add_special_tokens=False)
    # Characters scaled to tokens: exact offsets would cost a second tokenisation.
    fact = round(question.fact_start * per_character)
    return Example(
        prompt, (*answer["input_ids"], tokenizer.eos_token_id), prompt.boundary - fact
    )


def agent_named(name: str) -> Agent:
    """The case-file agent of that name.

    Raises:
        DataError: there is none.
    """
    if name not in AGENTS:
        raise DataError(f"no agent {name!r}; the case file has {', '.join(AGENTS)}")
    return AGENTS[name]
