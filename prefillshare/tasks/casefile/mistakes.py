"""Answers with one mistake, for those who check and judge answers.

Every field that an answer takes from the case file can be the wrong one (not the name
of a tool, about which a case file says nothing), each as often as the others.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from prefillshare.tasks.casefile.agents import INVOICING, LETTER, Agent
from prefillshare.tasks.casefile.generate import Case
from prefillshare.tasks.casefile.records import (
    FORENAMES,
    ITEMS,
    PRICES,
    QUANTITIES,
    TOWNS,
    Record,
    Values,
)

# What a letter calls its total: it names what was billed.
_RECORD_FIELDS = {"billed": "total"}


@dataclass(frozen=True)
class Mistake:
    """`text` is an answer whose `field` says `said`; the case file says `right`."""

    text: str
    field: str
    right: int | str
    said: int | str


def fields_of(agent: Agent) -> tuple[str, ...]:
    """What the agent's fullest answer says about a record, by the record's names."""
    return tuple(_RECORD_FIELDS.get(name, name) for name in agent.form.fields)


def apart_from(case: Case, record: Record, agent: Agent) -> list[Record]:
    """The orders that share nothing with `record` that the agent's answer says.

    With the number of one of these in the answer, no other single mistake explains
    it. Where a case has none, all its other orders; where it has one order, none.
    """
    others = [other for other in case.records if other.number != record.number]
    mine = record.values()
    said = [field for field in fields_of(agent) if field != "order"]
    apart = [
        other
        for other in others
        if all(other.values()[field] != mine[field] for field in said)
    ]
    return apart or others


def mistaken(
    case: Case,
    agent: Agent,
    record: Record,
    rng: random.Random,
    numbers: Sequence[int],
) -> Mistake:
    """The agent's answer about `record` with one field wrong, drawn evenly.

    Args:
        numbers: those that a wrong order number is drawn from; with none, the number
            is never the mistake.
    """
    fields = [f for f in fields_of(agent) if f != "order" or numbers]
    field = rng.choice(fields)
    right = record.values()[field]
    values = numbers if field == "order" else _values(case, record, field)
    said = rng.choice([value for value in values if value != right])
    return Mistake(_answer(agent, record, field, said), field, right, said)


def _values(case: Case, record: Record, field: str) -> Sequence[int | str]:
    """What could stand in `field`: of the other orders, or of any if there is none."""
    match field:
        case "quantity":
            return QUANTITIES
        case "price":
            return PRICES
        case "total":
            return sorted({q * p for q in QUANTITIES for p in PRICES})
    held = sorted({str(other.values()[field]) for other in case.records})
    if len(held) > 1:
        return held
    surname = record.customer.split()[-1]
    customers = tuple(f"{forename} {surname}" for forename in FORENAMES)
    return {"item": ITEMS, "town": TOWNS, "customer": customers}[field]


def _answer(agent: Agent, record: Record, field: str, said: int | str) -> str:
    stated: Values = {field: said}
    if agent is INVOICING and field in ("quantity", "price"):
        # The sum is right in itself, so that only the context shows the mistake.
        values = record.values() | stated
        stated["total"] = int(values["quantity"]) * int(values["price"])
    if agent is LETTER:
        stated["billed"] = (record.values() | stated)["total"]
    return agent.answer(record, **stated)
