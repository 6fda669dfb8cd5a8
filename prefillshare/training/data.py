"""Tokenised examples, grouped by the context that they share."""

from __future__ import annotations

from bisect import bisect_right
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

    `distance` is the number of tokens from the fact's first to the boundary.
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
    """Which case files to generate; see `tasks.casefile.generate`.

    With `records_max`, the number of records runs evenly from `records` to it, so
    that contexts differ in length.
    """

    split: Split
    contexts: int
    records: int
    questions: int
    seed: int = 0
    with_context: bool = True
    records_max: int | None = None

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
                    records=self._records(i),
                    questions=self.questions,
                    with_context=self.with_context,
                ),
                agent,
                boundary,
            )
            for i in range(self.contexts)
        ]

    def _records(self, index: int) -> int:
        extra = (self.records_max or self.records) - self.records
        return self.records + extra * index // max(1, self.contexts - 1)


def casefile_group(
    tokenizer: PreTrainedTokenizerBase, case: Case, agent: Agent, boundary: Boundary
) -> ContextGroup:
    """One case as `agent` sees it."""
    ends = _token_ends(tokenizer, case.context)
    examples = []
    for question in case.questions:
        prompt = lay_out(tokenizer, messages_of(case, question), agent.suffix, boundary)
        answer = tokenizer(agent.answer(question.record), add_special_tokens=False)
        response = (*answer["input_ids"], tokenizer.eos_token_id)
        # The token that holds the fact's first character.
        fact = bisect_right(ends, question.fact_start)
        examples.append(Example(prompt, response, prompt.boundary - fact))
    return ContextGroup.of(examples)


def _token_ends(tokenizer: PreTrainedTokenizerBase, context: str) -> list[int]:
    """Where each token of the rendered context ends, in characters of `context`."""
    text = str(
        tokenizer.apply_chat_template(
            [{"role": "system", "content": context}], tokenize=False
        )
    )
    start = text.index(context.strip())
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return [end - start for _, end in encoded["offset_mapping"]]


def messages_of(case: Case, question: Question) -> list[dict[str, str]]:
    """The shared context, then the transcript so far."""
    return [
        {"role": "system", "content": case.context},
        {"role": "user", "content": question.request},
    ]


def agent_named(name: str) -> Agent:
    """The case-file agent of that name.

    Raises:
        DataError: there is none.
    """
    if name not in AGENTS:
        raise DataError(f"no agent {name!r}; the case file has {', '.join(AGENTS)}")
    return AGENTS[name]
