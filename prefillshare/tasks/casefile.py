"""The case-file task: several agents ask for facts that stand in one long context.

A case is a shared context (a firm's order book with price notes, a log and policies)
and requests about its orders. Every request can be put to each agent in `AGENTS`;
the answer depends on one record, whose place in the context is known, so accuracy
can be reported by distance. Everything follows from `(split, seed)`.

Train and test are disjoint by construction: order numbers and surnames are divided
between the splits (`_Pools`), so no record of one can occur in the other.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "test"]

ITEMS = tuple(
    "lamp kettle drill chair mirror basket clock ladder "
    "blanket bottle hammer carpet candle pillow bucket guitar".split()
)
TOWNS = tuple(
    "Lyon Oslo Porto Turin Ghent Graz Cork Bergen "
    "Malaga Leeds Bremen Nantes Parma Basel Krakow Tampere".split()
)
FORENAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gina", "Hugo", "Ines", "Jon")
SURNAMES = tuple(
    "Brook Stone Field Marsh Wood Hill Lake Ford "
    "Park Bell Cook Page Reed Snow Swift West".split()
)
EVENTS = (
    "was packed by the morning shift",
    "waits for a label",
    "was checked against the stock list",
    "was moved to gate two",
    "had its address confirmed by phone",
)
POLICIES = (
    "Fragile goods travel in double boxes.",
    "Invoices name the unit price and the total.",
    "A clerk who changes a record signs the log.",
    "Goods leave the house on working days only.",
    "Returns are taken back within thirty days.",
    "Every parcel carries the order number on two sides.",
)


@dataclass(frozen=True)
class Record:
    """One order. `number` has three digits; `price` is per unit, in whole euros."""

    number: int
    customer: str
    item: str
    quantity: int
    price: int
    town: str

    def line(self) -> str:
        """The record as it stands in the context."""
        return (
            f"order {self.number}: item {self.item}, town {self.town}, "
            f"quantity {self.quantity}, price {self.price}, customer {self.customer}"
        )


@dataclass(frozen=True)
class Agent:
    """A role over the case file: `suffix` is what the router appends for it."""

    name: str
    suffix: str

    def answer(self, record: Record) -> str:
        """The reference response for a request about `record`."""
        return _ANSWERS[self.name](record)


@dataclass(frozen=True)
class Question:
    """One request about one record.

    `fact_start` is the record's first character in the context: distances are
    counted from there.
    """

    request: str
    record: Record
    fact_start: int


@dataclass(frozen=True)
class Case:
    """A shared context and the requests put over it."""

    context: str
    questions: tuple[Question, ...]


def _tool_call(record: Record) -> str:
    call = {"order": record.number, "item": record.item, "town": record.town}
    return json.dumps({"name": "ship_order", "arguments": call})


def _computation(record: Record) -> str:
    total = record.quantity * record.price
    return f"order {record.number}: {record.quantity} x {record.price} = {total}"


_ANSWERS = {"shipping": _tool_call, "invoicing": _computation}

SHIPPING = Agent(
    "shipping",
    "You are the shipping agent. Tool: ship_order(order, item, town). "
    "Reply with one JSON tool call for the order that the request names.",
)
INVOICING = Agent(
    "invoicing",
    "You are the invoicing agent. "
    "Reply with order, quantity x price = total for the order that the request names.",
)
AGENTS = {agent.name: agent for agent in (SHIPPING, INVOICING)}


@dataclass(frozen=True)
class _Pools:
    numbers: tuple[int, ...]
    surnames: tuple[str, ...]

    @classmethod
    def of(cls, split: Split) -> _Pools:
        # Every fifth number and every fourth surname belong to the test split.
        test = split == "test"
        return cls(
            tuple(n for n in range(100, 1000) if (n % 5 == 0) == test),
            tuple(s for i, s in enumerate(SURNAMES) if (i % 4 == 3) == test),
        )


def generate(
    split: Split, seed: int, *, records: int, questions: int, with_context: bool = True
) -> Case:
    """One case with `records` orders and `questions` requests about distinct orders.

    The asked orders are spread evenly over the context (one from each of `questions`
    equal stretches), so that every distance is asked about equally often. With
    `with_context=False` the order book is left out: the no-context floor.

    Raises:
        ValueError: more questions than records, or more records than numbers exist.
    """
    pools = _Pools.of(split)
    if not 1 <= questions <= records <= len(pools.numbers):
        raise ValueError(
            f"a {split} case needs 1 <= questions <= records <= {len(pools.numbers)}, "
            f"got questions={questions}, records={records}"
        )
    rng = random.Random(f"casefile/{split}/{seed}")
    orders = [
        _record(rng, pools, number) for number in rng.sample(pools.numbers, records)
    ]
    context, starts = _context(rng, orders)
    asked = [rng.choice(stretch) for stretch in _stretches(records, questions)]
    rng.shuffle(asked)
    return Case(
        context if with_context else _HEADER,
        tuple(
            Question(f"Process order {orders[i].number}.", orders[i], starts[i])
            for i in asked
        ),
    )


_HEADER = "Case file of a trading house."


def _record(rng: random.Random, pools: _Pools, number: int) -> Record:
    customer = f"{rng.choice(FORENAMES)} {rng.choice(pools.surnames)}"
    return Record(
        number,
        customer,
        rng.choice(ITEMS),
        rng.randint(2, 9),
        rng.randint(2, 20),
        rng.choice(TOWNS),
    )


def _context(rng: random.Random, orders: list[Record]) -> tuple[str, list[int]]:
    """The order book with a log line or policy after every fourth record."""
    text = _HEADER + "\n"
    starts = []
    for i, order in enumerate(orders):
        starts.append(len(text))
        text += order.line() + "\n"
        if i % 4 == 3:
            text += _aside(rng, orders) + "\n"
    return text, starts


def _aside(rng: random.Random, orders: list[Record]) -> str:
    if rng.random() < 0.5:
        return "policy: " + rng.choice(POLICIES)
    # A log line names an order without its facts: a distractor for look-ups.
    hour, minute = rng.randint(7, 18), rng.randint(0, 59)
    return (
        f"log {hour:02}:{minute:02}: {rng.choice(orders).number} {rng.choice(EVENTS)}"
    )


def _stretches(records: int, questions: int) -> Iterator[range]:
    for i in range(questions):
        yield range(i * records // questions, (i + 1) * records // questions)
