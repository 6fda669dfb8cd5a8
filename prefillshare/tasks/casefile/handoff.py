"""Marks for a chain whose agents hear what the agents before them really said.

An answer can be right in two senses. *Right*: a chain without a mistake would have
said it. *Given*: it follows from the case file and what was said before, mistakes
included: the order is the one that the last answer named, the letter names the total
that was billed, and the checker is right to object to a wrong answer. An answer that
is not right but given inherits its mistake.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prefillshare.errors import DataError
from prefillshare.tasks.casefile.agents import (
    CHECKING,
    INVOICING,
    JUDGE,
    LETTER,
    Agent,
)
from prefillshare.tasks.casefile.generate import Case
from prefillshare.tasks.casefile.records import Record, Values


@dataclass(frozen=True)
class Said:
    """What one agent of a chain said."""

    agent: Agent
    text: str


@dataclass(frozen=True)
class TurnMarks:
    """Whether an answer is right, and right given what was said before it."""

    right: bool
    given: bool

    @property
    def inherited(self) -> bool:
        """Wrong, but by an earlier agent's mistake."""
        return self.given and not self.right


def mark_chain(case: Case, record: Record, said: Sequence[Said]) -> list[TurnMarks]:
    """Marks, by structure, of every answer about the requested `record`.

    Raises:
        DataError: the judge is in the chain, where no two answers are put to it.
    """
    if any(each.agent is JUDGE for each in said):
        raise DataError(
            "the judge compares two answers, which no chain hands on; leave it out"
        )
    return [
        TurnMarks(
            _is_right(record, said[:i], each), _is_given(case, record, said[:i], each)
        )
        for i, each in enumerate(said)
    ]


def _is_right(record: Record, before: Sequence[Said], answer: Said) -> bool:
    invoiced = any(each.agent is INVOICING for each in before)
    billed = record.quantity * record.price if invoiced else None
    return _agrees(answer, record, billed)


def _is_given(case: Case, record: Record, before: Sequence[Said], answer: Said) -> bool:
    if answer.agent is CHECKING and before:
        *earlier, checked = before
        return _is_fair(answer, checked, _at_hand(case, record, earlier))
    return _agrees(answer, _at_hand(case, record, before), _billed(before))


def _agrees(answer: Said, record: Record, billed: int | None) -> bool:
    agent = answer.agent
    stated: Values = {}
    if agent is CHECKING:
        stated["verdict"] = "correct"
    if agent is LETTER and billed is not None:
        stated["billed"] = billed
    reference = agent.answer(record, **stated)
    return agent.form.parse(answer.text) == agent.form.parse(reference)


def _at_hand(case: Case, record: Record, before: Sequence[Said]) -> Record:
    """The order that the last of the answers named, else the requested one."""
    for said in reversed(before):
        named = case.find((said.agent.form.parse(said.text) or {}).get("order"))
        if named is not None:
            return named
    return record


def _billed(before: Sequence[Said]) -> int | None:
    """The total of the last invoice that can be read."""
    for said in reversed(before):
        values = said.agent.form.parse(said.text)
        if said.agent is INVOICING and values is not None:
            return int(values["total"])
    return None


def _is_fair(verdict: Said, checked: Said, record: Record) -> bool:
    """Whether the checker says of the checked answer what the case file says."""
    found = verdict.agent.form.parse(verdict.text)
    said = checked.agent.form.parse(checked.text)
    if found is None:
        return False
    expected = {*checked.agent.form.fields, *checked.agent.fixed} - {"billed"}
    if said is None or not expected <= said.keys():
        # Nothing that could be quoted: any objection is right.
        return found != {"verdict": "correct"}
    total = record.quantity * record.price
    held = {**record.values(), **checked.agent.fixed, "billed": total}
    wrong = [name for name, value in said.items() if value != held[name]]
    objections = [
        {
            "field": "total" if name == "billed" else name,
            "right": str(held[name]),
            "values": str(said[name]),
        }
        for name in wrong
    ]
    return found in (objections or [{"verdict": "correct"}])
