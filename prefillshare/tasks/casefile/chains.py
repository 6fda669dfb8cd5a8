"""What stands in the transcript before an agent: the hand-off.

At depth 1 the request names the order. Deeper, it names two, of which the first
agent took one: which one, the later agents learn from the transcript alone. What an
earlier agent got wrong stays wrong in what is built on it: the letter names the total
that was billed, and the checker's answer depends on the answer that it checks.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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
from prefillshare.tasks.casefile.mistakes import apart_from, mistaken
from prefillshare.tasks.casefile.records import Record

# The depths at which each agent can stand; every other agent starts a chain.
DEPTHS = {"shipping": (1,), "invoicing": (1, 2), "letter": (1, 2, 3)}
DEPTHS |= {"checking": (2, 3, 4)}


@dataclass(frozen=True)
class Turn:
    """One agent's turn: the messages before it and its reference answer.

    `facts` are the judge's: which answer is `right` ("first" or "second"), whether the
    two are `swapped`, who was `judged`, and which `field` the other has wrong.
    """

    messages: tuple[Message, ...]
    answer: str
    depth: int
    facts: Mapping[str, Any] = field(default_factory=dict)


def default_depths(agent: str) -> tuple[int, ...]:
    """Depth 1 for an agent that can start a chain, else all at which it can stand."""
    possible = DEPTHS.get(agent, (1,))
    return (1,) if 1 in possible else possible


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
    if agent is CHECKING:
        return [_checked(case, question.record, depth, rng)]
    record = question.record
    request = question.request
    if depth > 1:
        request = _ambiguous(record, _others(case, record), rng)
    # A letter may follow an invoice that is wrong: it names what was billed.
    total = rng.choice((record.quantity * record.price, rng.randint(4, 160)))
    before = _before(agent, depth)
    said = [_said(each, record, total) for each in before]
    answer = _built_on(agent, record, total if INVOICING in before else None)
    return [_turn(case, request, said, answer, depth)]


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


def _turn(
    case: Case, request: str, said: Sequence[str], answer: str, depth: int
) -> Turn:
    transcript = (_assistant(text) for text in said)
    return Turn((*_opening(case, request), *transcript), answer, depth)


def _before(agent: Agent, depth: int) -> tuple[Agent, ...]:
    if depth == 1:
        return ()
    place = CHAIN.index(agent)
    return CHAIN[place - depth + 1 : place]


def _others(case: Case, record: Record) -> list[Record]:
    return [other for other in case.records if other.number != record.number]


def _ambiguous(record: Record, others: Sequence[Record], rng: random.Random) -> str:
    """A request that names `record` and another order, if there is one."""
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


def _checked(case: Case, record: Record, depth: int, rng: random.Random) -> Turn:
    """The answers before the checker, the last one wrong in half the cases."""
    before = CHAIN[: depth - 1]
    # A wrong order number is the other one that the request names: nothing but the
    # case file tells it from the right one.
    apart = apart_from(case, record, before[-1])
    other = [rng.choice(apart)] if apart else []
    request = _ambiguous(record, other, rng)
    total = record.quantity * record.price
    said = [_said(agent, record, total) for agent in before]
    if rng.random() < 0.5:
        answer = CHECKING.form.render({"verdict": "correct"})
        return _turn(case, request, said, answer, depth)
    numbers = [each.number for each in other]
    wrong = mistaken(case, before[-1], record, rng, numbers)
    stated = {"field": wrong.field, "right": wrong.right, "values": wrong.said}
    said[-1], answer = wrong.text, CHECKING.form.render(stated)
    return _turn(case, request, said, answer, depth)


def _judged(case: Case, question: Question, rng: random.Random) -> list[Turn]:
    """A right and a wrong answer in both orders: a consistent judge follows them."""
    judged = rng.choice((SHIPPING, INVOICING))
    record = question.record
    numbers = [each.number for each in apart_from(case, record, judged)]
    wrong = mistaken(case, judged, record, rng, numbers)
    both = (judged.answer(record), wrong.text)
    facts = {"judged": judged.name, "field": wrong.field}
    return [
        Turn(
            _opening(case, f"{question.request}\nfirst: {first}\nsecond: {second}"),
            JUDGE.form.render({"verdict": right}),
            1,
            {"right": right, "swapped": right == "second", **facts},
        )
        for (first, second), right in ((both, "first"), (both[::-1], "second"))
    ]
