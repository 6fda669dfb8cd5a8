"""What stands in the transcript before an agent: the hand-off.

At depth 1 the request names the order. Deeper, it names two, of which the first
agent took one: which one, the later agents learn from the transcript alone. What an
earlier agent got wrong stays wrong in what is built on it: the letter names the total
that was billed, and the checker's answer depends on the answer that it checks.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from prefillshare.errors import DataError
from prefillshare.tasks.base import Message
from prefillshare.tasks.casefile.agents import (
    CHAIN,
    CHECKING,
    INVOICING,
    JUDGE,
    LETTER,
    SHIPPING,
    Agent,
)
from prefillshare.tasks.casefile.generate import Case, Question, request_for
from prefillshare.tasks.casefile.records import (
    PRICES,
    QUANTITIES,
    Record,
    Values,
)

# The depths at which each agent can stand; every other agent starts a chain.
DEPTHS = {"shipping": (1,), "invoicing": (1, 2), "letter": (1, 2, 3)}
DEPTHS |= {"checking": (2, 3, 4)}
# The fields in which each agent's answer can be wrong.
_FIELDS = {
    "shipping": ("item", "town"),
    "invoicing": ("quantity", "price"),
    "letter": ("customer", "item", "town"),
}


@dataclass(frozen=True)
class Turn:
    """One agent's turn: the messages before it and its reference answer."""

    messages: tuple[Message, ...]
    answer: str
    depth: int


def turns(
    case: Case, question: Question, agent: Agent, depth: int, rng: random.Random
) -> list[Turn]:
    """The turns of `agent` about one question: two for the judge, else one.

    Raises:
        DataError: the agent cannot stand at that depth.
    """
    possible = DEPTHS.get(agent.name, (1,))
    if depth not in possible:
        raise DataError(
            f"agent {agent.name!r} cannot stand at hand-off depth {depth}; it can at "
            f"{', '.join(map(str, possible))}"
        )
    if agent is JUDGE:
        return _judged(case, question, rng)
    record = question.record
    request = question.request if depth == 1 else _ambiguous(case, record, rng)
    opening = _opening(case, request)
    if agent is CHECKING:
        before = list(CHAIN[: depth - 1])
        said, answer = _checked(case, record, before, rng)
    else:
        before = (
            list(CHAIN[CHAIN.index(agent) - depth + 1 :][: depth - 1])
            if (depth > 1)
            else []
        )
        # A letter may follow an invoice that is wrong: it names what was billed.
        total = rng.choice((record.quantity * record.price, rng.randint(4, 160)))
        said = [_said(each, record, total) for each in before]
        answer = _built_on(agent, record, total if INVOICING in before else None)
    return [Turn((*opening, *(_assistant(text) for text in said)), answer, depth)]


def chain_messages(case: Case, question: Question) -> tuple[Message, ...]:
    """What the first agent of a chain sees."""
    return _opening(case, question.request)


def next_messages(messages: Sequence[Message], response: str) -> tuple[Message, ...]:
    """The transcript after an agent's response: what the next agent sees."""
    return (*messages, _assistant(response))


def chain_answers(record: Record) -> list[str]:
    """The references of the four agents, if each gets the references before it."""
    total = record.quantity * record.price
    return [
        SHIPPING.answer(record),
        INVOICING.answer(record),
        LETTER.answer(record, billed=total),
        CHECKING.form.render({"verdict": "correct"}),
    ]


def _opening(case: Case, request: str) -> tuple[Message, ...]:
    return (
        {"role": "system", "content": case.context},
        {"role": "user", "content": request},
    )


def _assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _ambiguous(case: Case, record: Record, rng: random.Random) -> str:
    others = [other for other in case.records if other.number != record.number]
    numbers = [record.number, *([rng.choice(others).number] if others else [])]
    rng.shuffle(numbers)
    return request_for(*numbers)


def _said(agent: Agent, record: Record, total: int) -> str:
    if agent is INVOICING:
        return agent.answer(record, total=total)
    if agent is LETTER:
        return agent.answer(record, billed=total)
    return agent.answer(record)


def _built_on(agent: Agent, record: Record, billed: int | None) -> str:
    if agent is LETTER and billed is not None:
        return agent.answer(record, billed=billed)
    return agent.answer(record)


def _checked(
    case: Case, record: Record, before: Sequence[Agent], rng: random.Random
) -> tuple[list[str], str]:
    """The answers before the checker, the last one wrong in half the cases."""
    total = record.quantity * record.price
    said = [_said(agent, record, total) for agent in before]
    if rng.random() < 0.5:
        return said, CHECKING.form.render({"verdict": "correct"})
    field, wrong = _mistake(case, before[-1], record, rng)
    said[-1] = _said_wrongly(before[-1], record, field, wrong)
    right = record.values()[field]
    return said, CHECKING.form.render({"field": field, "right": right, "values": wrong})


def _mistake(
    case: Case, agent: Agent, record: Record, rng: random.Random
) -> tuple[str, int | str]:
    """A field of the agent's answer, and a value that is not the record's."""
    field = rng.choice(_FIELDS[agent.name])
    right = record.values()[field]
    ranges: Values | dict[str, range] = {"quantity": QUANTITIES, "price": PRICES}
    values: list[int | str] = (
        list(ranges[field])  # type: ignore[arg-type]
        if field in ranges
        else sorted({other.values()[field] for other in case.records}, key=str)
    )
    wrong = [value for value in values if value != right]
    return field, rng.choice(wrong) if wrong else f"no {field}"


def _said_wrongly(agent: Agent, record: Record, field: str, wrong: int | str) -> str:
    stated: Values = {field: wrong}
    if agent is INVOICING:
        # The sum is right in itself, so that only the context shows the mistake.
        values = record.values() | stated
        stated["total"] = int(values["quantity"]) * int(values["price"])
    if agent is LETTER:
        stated["billed"] = record.quantity * record.price
    return agent.answer(record, **stated)


def _judged(case: Case, question: Question, rng: random.Random) -> list[Turn]:
    """A right and a wrong answer in both orders: a consistent judge follows them."""
    judged = rng.choice((SHIPPING, INVOICING))
    record = question.record
    right = judged.answer(record)
    field, value = _mistake(case, judged, record, rng)
    wrong = _said_wrongly(judged, record, field, value)
    both = [
        Turn(
            _opening(case, f"{question.request}\nfirst: {first}\nsecond: {second}"),
            JUDGE.form.render({"verdict": verdict}),
            1,
        )
        for first, second, verdict in (
            (right, wrong, "first"),
            (wrong, right, "second"),
        )
    ]
    return both
