"""The case-file task."""

from __future__ import annotations

import json

import pytest

from prefillshare.tasks.casefile import AGENTS, INVOICING, SHIPPING, generate


def test_a_case_is_reproducible_and_holds_its_answers() -> None:
    case = generate("train", 3, records=12, questions=4)
    assert case == generate("train", 3, records=12, questions=4)
    assert case != generate("train", 4, records=12, questions=4)
    for question in case.questions:
        line = question.record.line()
        assert case.context[question.fact_start :].startswith(line + "\n")
        assert case.context.count(f"order {question.record.number}:") == 1


def test_answers() -> None:
    record = generate("train", 0, records=1, questions=1).questions[0].record
    call = json.loads(SHIPPING.answer(record))
    assert call["name"] == "ship_order"
    assert call["arguments"]["town"] == record.town
    assert INVOICING.answer(record).endswith(f"= {record.quantity * record.price}")
    assert set(AGENTS) == {"shipping", "invoicing"}


def test_splits_share_no_order_and_no_surname() -> None:
    seen: dict[str, set[object]] = {"train": set(), "test": set()}
    for split in ("train", "test"):
        for seed in range(40):
            case = generate(split, seed, records=20, questions=20)
            for question in case.questions:
                surname = question.record.customer.split()[1]
                seen[split] |= {question.record.number, surname}
    assert seen["train"] and seen["test"]
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
    with pytest.raises(ValueError, match=f"questions={questions}, records={records}"):
        generate("test", 0, records=records, questions=questions)
