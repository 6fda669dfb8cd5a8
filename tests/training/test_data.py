"""Text becomes examples: distances, sizes, and what cannot be learned."""

from __future__ import annotations

import pytest

from prefillshare.errors import DataError
from prefillshare.models.tiny import tiny_tokenizer
from prefillshare.tasks.base import Sample
from prefillshare.tasks.casefile import CaseFileTask
from prefillshare.training.data import Tokenisation
from tests.training.examples import tokenisation


def test_distance_is_counted_to_the_boundary() -> None:
    task = CaseFileTask("shipping", contexts=1, records=4, questions=3)
    (unit,) = task.units("train")
    for example, sample in zip(tokenisation().group(unit), unit, strict=True):
        boundary = example.prompt.boundary
        fact = example.prompt.token_ids[boundary - example.distance : boundary]
        assert sample.fact_start is not None
        text = sample.messages[0]["content"][sample.fact_start :]
        said = str(tiny_tokenizer().decode(list(fact)))
        assert said.startswith(text.split("\n")[0])


def test_contexts_grow_from_records_to_records_max() -> None:
    task = CaseFileTask("shipping", contexts=4, records=2, questions=1, records_max=11)
    contexts = [unit[0].messages[0]["content"] for unit in task.units("train")]
    assert [context.count(": item ") for context in contexts] == [2, 5, 8, 11]


def test_examples_that_cannot_be_learned_are_named() -> None:
    message = {"role": "user", "content": "what is it?"}
    with pytest.raises(DataError, match="the response to 'what is it\\?' is empty"):
        tokenisation().group((Sample((message,), "", ""),))
    short = Tokenisation(tiny_tokenizer(), "last_token", max_tokens=8)
    with pytest.raises(DataError, match="but the model's context is 8"):
        short.group((Sample((message,), "", "it"),))
