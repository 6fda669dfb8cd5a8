"""The case-file task: what is asked, what depends on what, and what is marked."""

from __future__ import annotations

import json
import re
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefillshare.errors import DataError
from prefillshare.tasks.base import Sample, Split
from prefillshare.tasks.casefile import (
    AGENTS,
    CHAIN,
    DEPTHS,
    INVOICING,
    SHIPPING,
    TUNING_AGENTS,
    CaseFileTask,
    agent_named,
    chain_answers,
    chain_messages,
    generate,
    next_messages,
)
from prefillshare.tasks.casefile.formats import Format, entry
from prefillshare.training.settings import CaseFiles, build_task

EVERY = [*AGENTS, *TUNING_AGENTS]


def samples(agent: str, **fields: object) -> list[Sample]:
    depths = DEPTHS.get(agent, (1,))
    task = CaseFileTask(agent, contexts=3, records=12, questions=6, depths=depths)
    task = CaseFileTask(**{**vars(task), **fields})
    return [sample for unit in task.units("train") for sample in unit]


def test_a_case_is_reproducible_and_holds_its_answers() -> None:
    case = generate("train", 3, records=12, questions=4)
    assert case == generate("train", 3, records=12, questions=4)
    assert case != generate("train", 4, records=12, questions=4)
    for question in case.questions:
        line = entry(question.record, "line")
        assert case.context[question.fact_start :].startswith(line + "\n")
        assert case.context.count(f"order {question.record.number}:") == 1


def test_answers() -> None:
    record = generate("train", 0, records=1, questions=1).questions[0].record
    call = json.loads(SHIPPING.answer(record))
    assert call["name"] == "ship_order"
    assert call["arguments"]["town"] == record.town
    assert INVOICING.answer(record).endswith(f"= {record.quantity * record.price}")


@given(seed=st.integers(0, 10_000), records=st.integers(1, 130))
@settings(deadline=None, max_examples=30)
def test_splits_share_no_order_and_no_surname(seed: int, records: int) -> None:
    seen: dict[Split, set[object]] = {"train": set(), "test": set()}
    splits: tuple[Split, ...] = get_args(Split)
    for split in splits:
        case = generate(split, seed, records=records, questions=1)
        numbers = {record.number for record in case.records}
        assert len(numbers) == records
        seen[split] = numbers | {r.customer.split()[1] for r in case.records}
    assert not seen["train"] & seen["test"]


def test_questions_cover_every_distance() -> None:
    case = generate("test", 0, records=16, questions=4)
    places = sorted(
        case.context[: q.fact_start].count("\norder ") for q in case.questions
    )
    assert [place // 4 for place in places] == [0, 1, 2, 3]


def test_without_context_no_answer_is_left() -> None:
    floor = generate("test", 0, records=16, questions=4, with_context=False)
    assert "order" not in floor.context
    assert floor.questions == generate("test", 0, records=16, questions=4).questions


@pytest.mark.parametrize(("records", "questions"), [(3, 4), (0, 0), (500, 1)])
def test_impossible_sizes_are_named(records: int, questions: int) -> None:
    with pytest.raises(DataError, match=f"questions={questions}, records={records}"):
        generate("test", 0, records=records, questions=questions)


def test_an_unknown_agent_and_an_impossible_depth_are_named() -> None:
    with pytest.raises(DataError, match="no agent 'cook'.*shipping"):
        CaseFileTask("cook")
    with pytest.raises(DataError, match="no agent 'cook'.*shipping"):
        agent_named("cook")
    with pytest.raises(DataError, match="'shipping' cannot stand at .*depth 2"):
        samples("shipping", depths=(2,))
    with pytest.raises(DataError, match="'letter' was given no hand-off depth"):
        CaseFileTask("letter", depths=())


def test_an_unknown_format_or_split_is_named() -> None:
    unknown: Any = "xml"
    with pytest.raises(DataError, match="no format 'xml'.*line, table, json"):
        CaseFileTask("shipping", format=unknown)
    with pytest.raises(DataError, match="no format 'xml'.*line, table, json"):
        generate("train", 0, records=4, questions=1, format=unknown)
    with pytest.raises(DataError, match="no split 'xml'.*train, test"):
        CaseFileTask("shipping").units(unknown)


@pytest.mark.parametrize("agent", EVERY)
def test_every_agent_has_depths_of_its_own(agent: str) -> None:
    task = CaseFileTask(agent, contexts=1, records=6, questions=6)
    (unit,) = task.units("test")
    expected = {2, 3, 4} if agent == "checking" else {1}
    assert {sample.depth for sample in unit} == expected
    configured = build_task(CaseFiles(agent=agent, contexts=1, records=6, questions=6))
    assert configured.units("test") == [unit]


@pytest.mark.parametrize("format", get_args(Format))
def test_a_quote_is_what_stands_in_the_context(format: Format) -> None:
    task = CaseFileTask("quote", contexts=2, records=9, format=format)
    for sample in (sample for unit in task.units("train") for sample in unit):
        context = sample.messages[0]["content"]
        assert context[sample.fact_start :].startswith(sample.answer + "\n")
        assert all(task.score(sample, sample.answer).values())
        assert not task.score(sample, sample.answer + ".")["form"]


@pytest.mark.parametrize("agent", EVERY)
def test_every_reference_is_marked_right_in_every_field(agent: str) -> None:
    task = CaseFileTask(agent)
    for sample in samples(agent):
        assert all(task.score(sample, sample.answer).values()), sample.answer


@pytest.mark.parametrize("agent", EVERY)
def test_another_answer_is_marked_wrong_and_nonsense_too(agent: str) -> None:
    task = CaseFileTask(agent)
    every = samples(agent)
    first = every[0]
    other = next(sample for sample in every if sample.answer != first.answer)
    assert not all(task.score(first, other.answer).values())
    for nonsense in ("", "{", '{"name": 3}', "[]", "order", "\ud800"):
        assert not task.score(first, nonsense)["exact"]


def test_marks_name_the_field_that_is_wrong() -> None:
    sample = samples("shipping")[0]
    call = json.loads(sample.answer)
    call["arguments"]["town"] = "Atlantis"
    marks = CaseFileTask("shipping").score(sample, json.dumps(call))
    wrong = {field for field, right in marks.items() if not right}
    assert wrong == {"town", "exact"}


@pytest.mark.parametrize("agent", ["invoicing", "letter", "checking"])
def test_deep_requests_do_not_say_which_order(agent: str) -> None:
    for sample in samples(agent):
        named = re.findall(r"order (\d+)", sample.messages[1]["content"])
        assert len(named) == (1 if sample.depth == 1 else 2)
        assert len(sample.messages) == 1 + sample.depth


def test_a_letter_names_what_was_billed_even_if_it_is_wrong() -> None:
    deep = [sample for sample in samples("letter") if sample.depth > 1]
    sums = [
        re.search(r"(\d+) x (\d+) = (\d+)", s.messages[-1]["content"]) for s in deep
    ]
    wrong = 0
    for sample, found in zip(deep, sums, strict=True):
        assert found is not None
        quantity, price, total = map(int, found.groups())
        assert sample.answer.endswith(f"the total is {total} euros.")
        wrong += quantity * price != total
    assert wrong > 0


@pytest.mark.parametrize("format", get_args(Format))
def test_the_facts_stand_in_the_context_in_every_format(format: Format) -> None:
    case = generate("train", 1, records=9, questions=3, format=format)
    for question in case.questions:
        found = case.context[question.fact_start :].split("\n")[0]
        values = question.record.values()
        if format == "price_list":
            listed = f"{values['item']} {values.pop('price')}"
            assert listed in case.context.split("\n")[1]
        values.pop("total", None)
        assert all(str(value) in found for value in values.values()), found


def test_agents_that_differ_in_nothing_else_have_the_same_contexts() -> None:
    contexts = {
        agent: [sample.messages[0]["content"] for sample in samples(agent)]
        for agent in ("shipping", "invoicing")
    }
    assert contexts["shipping"] == contexts["invoicing"]


def test_a_chain_hands_its_answers_on() -> None:
    case = generate("test", 0, records=5, questions=1)
    messages = chain_messages(case, case.questions[0])
    answers = chain_answers(case.questions[0].record)
    assert len(answers) == len(CHAIN)
    for answer in answers[:-1]:
        messages = next_messages(messages, answer)
    assert [m["role"] for m in messages] == ["system", "user", *["assistant"] * 3]
    total = case.questions[0].record.values()["total"]
    assert f"the total is {total} euros" in messages[-1]["content"]
    assert answers[-1] == "correct"
