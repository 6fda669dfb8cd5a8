"""Text becomes examples: distances, sizes, and what cannot be learned."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from prefillshare.errors import DataError
from prefillshare.models.tiny import tiny_tokenizer
from prefillshare.tasks.base import Marks, Sample, Split, Task, Unit
from prefillshare.tasks.casefile import CaseFileTask
from prefillshare.tasks.recipes.recipe import Recipe
from prefillshare.tasks.recipes.sources import Source
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


def units_of(*units: Unit) -> Task:
    """A task that has exactly these."""

    class Given:
        name, suffix = "given", ""

        def units(self, split: Split) -> list[Unit]:
            return list(units)

        def score(self, sample: Sample, response: str) -> Marks:
            return {}

    return Given()


def asked(question: str, answer: str) -> Sample:
    return Sample(({"role": "user", "content": question},), "", answer)


GOOD = asked("what?", "it")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            (GOOD, asked("why so?", "")),
            "example 1 of train unit 1 .*response to 'why so\\?' is empty .0 tokens.",
        ),
        (
            (asked("w" * 40, "long" * 3),),
            "example 0 of train unit 1 .*56 tokens .prompt 43, response 'l.* 13., .*40",
        ),
        ((), "train unit 1 of task 'given' has no examples: nothing to learn; drop it"),
        (
            (Sample((), "", "it"),),
            "example 0 of train unit 1 of task 'given': .* at least one message",
        ),
    ],
    ids=["empty", "oversize", "no examples", "no messages"],
)
def test_examples_that_cannot_be_learned_are_named(bad: Unit, message: str) -> None:
    short = Tokenisation(tiny_tokenizer(), "last_token", max_tokens=40)
    with pytest.raises(DataError, match=message):
        short.groups(units_of((GOOD,), bad), "train")


def test_an_optional_example_that_cannot_be_learned_is_left_out_and_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    long = replace(asked("w" * 40, "long"), optional=True)
    good = replace(GOOD, optional=True)
    short = Tokenisation(tiny_tokenizer(), "last_token", max_tokens=40)
    task = units_of((good, long), (long,), (GOOD,))
    with caplog.at_level(logging.WARNING):
        groups = short.groups(task, "train")
    assert groups == short.groups(units_of((GOOD,), (GOOD,)), "train")
    assert short.usable(task, "train") == [(good,), (GOOD,)]
    assert "task 'given', train: left out 2 of 4 examples, the first: example 1 of" in (
        caplog.text
    )
    assert "`drop_unusable: true` of a recipe's data does" in caplog.text
    with pytest.raises(DataError, match="48 tokens.*no other example .* is usable"):
        short.groups(units_of((long,)), "train")
    # Who asks for one unit's examples wants all of them.
    with pytest.raises(DataError, match="example 1 of a unit"):
        short.group((good, long))


def test_a_recipe_that_drops_what_is_unusable_drops_what_is_too_long(
    tmp_path: Path,
) -> None:
    rows = [{"question": "w" * length, "answer": "#### 2"} for length in (1, 90, 2)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    source = Source(path=path, format="gsm8k", drop_unusable=True)
    short = Tokenisation(tiny_tokenizer(), "last_token", max_tokens=60)
    groups = short.groups(Recipe(name="solver", train=source), "train")
    assert [example.tokens for (example,) in groups] == [11, 12]
    strict = source.model_copy(update={"drop_unusable": False})
    with pytest.raises(DataError, match="train unit 1 .* the model's context is 60"):
        short.groups(Recipe(name="solver", train=strict), "train")


def test_a_split_without_examples_is_named() -> None:
    with pytest.raises(DataError, match="'given' has no test examples; check its data"):
        tokenisation().groups(units_of(), "test")


def test_an_example_as_long_as_the_context_is_learned() -> None:
    (group,) = tokenisation().groups(units_of((GOOD,)), "train")
    exact = Tokenisation(tiny_tokenizer(), "last_token", group[0].tokens)
    assert exact.groups(units_of((GOOD,)), "train") == [group]
