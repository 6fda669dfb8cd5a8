"""Tokenised examples, grouped by the context that they share."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from prefillshare.errors import DataError
from prefillshare.models.bridge.prompt import lay_out_across
from prefillshare.models.prompt import Boundary, Prompt, lay_out
from prefillshare.tasks.base import Sample, Split, Task, Unit
from prefillshare.training.fields import Field, token_fields
from prefillshare.training.seams import say_boundary_merges, say_merges, speaks

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Example:
    """A prompt and the response to learn, which ends with the end-of-turn token.

    `distance` is the number of tokens from the fact's first to the boundary, 0 where
    no place is known; `depth` the hand-off depth; `fields` are those of a JSON answer,
    over the tokens of the response.
    """

    prompt: Prompt
    response: tuple[int, ...]
    distance: int = 0
    depth: int = 1
    fields: tuple[Field, ...] = ()

    @property
    def prefill_ids(self) -> tuple[int, ...]:
        """What the prefill module reads."""
        return self.prompt.token_ids[: self.prompt.boundary]

    @property
    def decoder_ids(self) -> tuple[int, ...]:
        """What the decoder reads in training: all but the last response token."""
        return self.prompt.remainder + self.response[:-1]

    @property
    def tokens(self) -> int:
        """Tokens of prompt and response."""
        return len(self.prompt.token_ids) + len(self.response)


# The examples of one unit: they share a context, or are turns of one conversation.
Group = tuple[Example, ...]


@dataclass(frozen=True)
class Tokenisation:
    """How text becomes examples.

    `max_tokens` bounds prompt and response together: the model's context. `decoder`
    is the decoder's tokenizer, where that is not the prefill module's.
    """

    tokenizer: PreTrainedTokenizerBase
    boundary: Boundary
    max_tokens: int
    decoder: PreTrainedTokenizerBase | None = None

    @property
    def answering(self) -> PreTrainedTokenizerBase:
        """The tokenizer of responses."""
        return self.decoder or self.tokenizer

    def groups(self, task: Task, split: Split) -> list[Group]:
        """All units of a split, without the optional samples that cannot be used.

        Raises:
            DataError: the split is empty, or a unit or sample is empty or too long.
        """
        made = self._made(task, split)
        pairs = [pair for unit in made for pair in unit]
        name = f"task {task.name!r}, {split}"
        seams = [(example.prompt.token_ids, sample.answer) for sample, example in pairs]
        say_merges(self.answering, name, seams)
        if self.boundary == "suffix":
            say_boundary_merges(self.answering, name, [e.prompt for _, e in pairs])
        return [tuple(example for _, example in unit) for unit in made]

    def usable(self, task: Task, split: Split) -> list[Unit]:
        """The samples of `groups`, unit by unit.

        Raises:
            DataError: as `groups`.
        """
        made = self._made(task, split)
        return [tuple(sample for sample, _ in unit) for unit in made]

    def group(self, unit: Unit, name: str = "a unit") -> Group:
        """One unit's examples, in order; `name` is what errors call it.

        Raises:
            DataError: it is empty, or one of its samples is empty or too long.
        """
        required = tuple(replace(sample, optional=False) for sample in unit)
        return tuple(example for _, example in self._pairs(required, name, []))

    def _made(self, task: Task, split: Split) -> list[list[tuple[Sample, Example]]]:
        """All units of a split, without what is left out, which is said."""
        units = task.units(split)
        if not any(units):
            raise DataError(
                f"task {task.name!r} has no {split} examples; check its data"
            )
        name = f"{split} unit {{}} of task {task.name!r}"
        refused: list[DataError] = []
        made = [
            self._pairs(unit, name.format(i), refused) for i, unit in enumerate(units)
        ]
        if not any(made):
            raise DataError(f"{refused[0]}; no other example of the task is usable")
        if refused and speaks():
            logger.warning(
                "task %r, %s: left out %d of %d examples, the first: %s",
                task.name,
                split,
                len(refused),
                sum(map(len, units)),
                refused[0],
            )
        return [unit for unit in made if unit]

    def _pairs(
        self, unit: Unit, name: str, refused: list[DataError]
    ) -> list[tuple[Sample, Example]]:
        """A unit's samples and examples; what is left out is added to `refused`."""
        if not unit:
            raise DataError(f"{name} has no examples: nothing to learn; drop it")
        ends: dict[str, list[int]] = {}
        pairs = []
        for i, sample in enumerate(unit):
            try:
                pairs.append((sample, self._example(sample, ends)))
            except DataError as error:
                named = DataError(f"example {i} of {name}: {error}")
                if not sample.optional:
                    raise named from error
                refused.append(named)
        return pairs

    def _example(self, sample: Sample, ends: dict[str, list[int]]) -> Example:
        prompt = self.prompt(sample)
        response = self._response(sample)
        total = prompt.longest + len(response)
        if total > self.max_tokens:
            raise DataError(
                f"it has {total} tokens (prompt {prompt.longest}, response "
                f"{sample.answer[:40]!r}… {len(response)}), but the model's context is "
                f"{self.max_tokens}; drop it (`drop_unusable: true` of a recipe's data "
                "does), shorten its context, or take a model with a longer one"
            )
        distance = 0
        if sample.fact_start is not None:
            context = sample.messages[0]["content"]
            if context not in ends:
                ends[context] = self._token_ends(sample.messages[0])
            # The token that holds the fact's first character.
            fact = bisect_right(ends[context], sample.fact_start)
            distance = prompt.boundary - fact
        fields = token_fields(self.answering, sample.answer)
        return Example(prompt, response, distance, sample.depth, fields)

    def prompt(self, sample: Sample) -> Prompt:
        """A sample's prompt, laid out as serving does.

        Raises:
            DataError: it cannot be.
        """
        asked = (sample.messages, sample.suffix, self.boundary)
        if self.decoder is None:
            return lay_out(self.tokenizer, *asked)
        return lay_out_across(self.tokenizer, self.decoder, *asked)

    def _response(self, sample: Sample) -> tuple[int, ...]:
        # Tokenised apart from the prompt, so no token merges across the seam: serving
        # feeds the prompt's own ids and samples the response after them.
        ids = self.answering(sample.answer, add_special_tokens=False)["input_ids"]
        if not ids:
            asked = sample.messages[-1]["content"][:60]
            raise DataError(
                f"the response to {asked!r} is empty (0 tokens): nothing to learn; "
                "drop the row"
            )
        return (*ids, self.answering.eos_token_id)

    def _token_ends(self, message: dict[str, str]) -> list[int]:
        """Where each token of the rendered context ends, in its characters."""
        text = str(self.tokenizer.apply_chat_template([message], tokenize=False))
        start = text.index(message["content"].strip())
        encoded = self.answering(
            text,
            add_special_tokens=self.decoder is not None,
            return_offsets_mapping=True,
        )
        return [end - start for _, end in encoded["offset_mapping"]]


def response_tokens(groups: Sequence[Group]) -> int:
    """How many tokens are learned in `groups`."""
    return sum(len(example.response) for group in groups for example in group)
