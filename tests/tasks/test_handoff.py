"""Chains in which somebody is wrong: who is, and who inherits it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefillshare.errors import DataError
from prefillshare.tasks.casefile import (
    AGENTS,
    CHAIN,
    CHECKING,
    INVOICING,
    JUDGE,
    LETTER,
    SHIPPING,
    CaseFileTask,
    chain_answers,
    generate,
)
from prefillshare.tasks.casefile.handoff import Said, mark_chain

CASE = generate("test", 0, records=6, questions=1)
RECORD = CASE.questions[0].record
OTHER = next(r for r in CASE.records if r.quantity != RECORD.quantity)
RIGHT = chain_answers(RECORD)
TOTAL = RECORD.quantity * RECORD.price
BILLED = LETTER.answer(RECORD, billed=TOTAL + 1)


def marks(*texts: str) -> list[str]:
    """Of the four-agent chain that says `texts`: right, inherited or wrong."""
    said = [Said(*pair) for pair in zip(CHAIN, texts, strict=True)]
    return [
        "inherited" if m.inherited else "right" if m.right and m.given else "wrong"
        for m in mark_chain(CASE, RECORD, said)
    ]


def test_a_chain_without_a_mistake_is_right() -> None:
    assert marks(*RIGHT) == ["right"] * 4
    # By structure: how a call is spaced does not count.
    assert marks(RIGHT[0].replace(" ", ""), *RIGHT[1:]) == ["right"] * 4


def test_a_letter_inherits_what_was_billed_and_the_checker_objects() -> None:
    invoice = INVOICING.answer(RECORD, total=TOTAL + 1)
    objection = f"wrong: total is {TOTAL}, not {TOTAL + 1}"
    assert marks(RIGHT[0], invoice, BILLED, objection) == [
        "right", "wrong", "inherited", "inherited"
    ]  # fmt: skip
    # The true total is not what was billed, and then there is nothing to object to.
    assert marks(RIGHT[0], invoice, RIGHT[2], "correct")[2:] == ["wrong", "right"]


def test_agents_follow_the_order_that_was_named() -> None:
    others = chain_answers(OTHER)
    wrong = others[0]
    assert marks(wrong, *others[1:3], "correct") == [
        "wrong", "inherited", "inherited", "right"
    ]  # fmt: skip
    assert marks(wrong, RIGHT[1], RIGHT[2], "correct")[1] == "wrong"


def test_an_order_that_does_not_exist_is_not_followed() -> None:
    unknown = SHIPPING.answer(replace(RECORD, number=1))
    assert marks(unknown, *RIGHT[1:])[1:] == ["right"] * 3


def test_an_unreadable_invoice_bills_nothing() -> None:
    bare = LETTER.answer(RECORD)
    assert marks(RIGHT[0], "so much", bare, "correct")[2:] == ["inherited", "right"]
    assert marks(RIGHT[0], "so much", RIGHT[2], "correct")[2] == "wrong"
    # A letter without the total is no letter after an invoice.
    assert marks(*RIGHT[:2], bare, "correct")[2] == "wrong"


@pytest.mark.parametrize(
    ("letter", "verdict", "mark"),
    [
        (RIGHT[2], "wrong: town is Lyon, not Oslo", "wrong"),
        (BILLED, "correct", "wrong"),
        (BILLED, f"wrong: total is {TOTAL + 2}, not {TOTAL + 1}", "wrong"),
        (BILLED, f"wrong: total is {TOTAL}, not {TOTAL + 1}", "inherited"),
        ("Dear me", "wrong: town is Lyon, not Oslo", "inherited"),
        ("Dear me", "correct", "wrong"),
        (RIGHT[2], "", "wrong"),
    ],
)
def test_a_checker_is_right_about_the_last_answer(
    letter: str, verdict: str, mark: str
) -> None:
    assert marks(*RIGHT[:2], letter, verdict)[3] == mark


def test_a_call_without_an_argument_cannot_be_quoted() -> None:
    call = '{"name": "ship_order", "arguments": {"order": 5}}'
    chain = [Said(SHIPPING, call), Said(CHECKING, "wrong: town is Lyon, not Oslo")]
    assert [m.given for m in mark_chain(CASE, RECORD, chain)] == [False, True]


@given(seed=st.integers(0, 500))
@settings(deadline=None, max_examples=20)
def test_the_checker_that_is_trained_is_right_given_what_it_checks(seed: int) -> None:
    task = CaseFileTask("checking", contexts=1, records=9, questions=6, seed=seed)
    case = task.case("train", 0)
    (unit,) = task.units("train")
    for question, sample in zip(case.questions, unit, strict=True):
        texts = [m["content"] for m in sample.messages[2:]] + [sample.answer]
        agents = [*CHAIN[: sample.depth - 1], CHECKING]
        said = [Said(*pair) for pair in zip(agents, texts, strict=True)]
        *before, last = mark_chain(case, question.record, said)
        assert last.given
        # Wrong is the answer that it objects to, and no other.
        fair = sample.answer == "correct"
        assert [m.given for m in before] == [True] * (len(before) - 1) + [fair]


def test_the_judge_is_refused() -> None:
    with pytest.raises(DataError, match="no chain hands on"):
        mark_chain(CASE, RECORD, [Said(JUDGE, "first")])
    assert JUDGE.name in AGENTS
