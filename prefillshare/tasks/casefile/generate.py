"""Case files: one shared context each, and requests about its orders.

Everything follows from `(split, seed)` and the sizes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from prefillshare.errors import DataError
from prefillshare.tasks.base import Split
from prefillshare.tasks.casefile.formats import Format, entry, preamble, wording
from prefillshare.tasks.casefile.records import PRICES, Pools, Record

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
_HEADER = "Case file of a trading house."


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
    """A shared context and the requests put over it.

    `records` are the orders in the context, in its order (kept where the context is
    left out).
    """

    context: str
    questions: tuple[Question, ...]
    records: tuple[Record, ...] = ()
    format: Format = "line"

    def find(self, number: int | str | None) -> Record | None:
        """The order of that number, None where the case has none."""
        return next((r for r in self.records if r.number == number), None)


def request_for(*numbers: int) -> str:
    """The request to process one order, or either of several."""
    return f"Process {' or '.join(f'order {n}' for n in numbers)}."


def generate(
    split: Split,
    seed: int,
    *,
    records: int,
    questions: int,
    with_context: bool = True,
    format: Format = "line",
) -> Case:
    """One case with `records` orders and `questions` requests about distinct orders.

    The asked orders are spread evenly over the context (one from each of `questions`
    equal stretches), so that every distance is asked about equally often. With
    `with_context=False` the order book is left out: the no-context floor. All formats
    of one seed hold the same orders, except that `price_list` has one price an item.

    Raises:
        DataError: more questions than records, more records than numbers exist, or
            no such format or split.
    """
    wording(format)  # an unknown format is an error before anything is drawn
    pools = Pools.of(split)
    if not 1 <= questions <= records <= len(pools.numbers):
        raise DataError(
            f"a {split} case needs 1 <= questions <= records <= {len(pools.numbers)}, "
            f"got questions={questions}, records={records}"
        )
    rng = random.Random(f"casefile/{split}/{seed}")
    orders = pools.draw(rng, records)
    if format == "price_list":
        orders = _priced_by_item(random.Random(f"prices/{split}/{seed}"), orders)
    context, starts = _context(rng, orders, format)
    asked = [rng.choice(stretch) for stretch in _stretches(records, questions)]
    rng.shuffle(asked)
    return Case(
        context if with_context else _HEADER,
        tuple(
            Question(request_for(orders[i].number), orders[i], starts[i]) for i in asked
        ),
        tuple(orders),
        format,
    )


def _priced_by_item(rng: random.Random, orders: list[Record]) -> list[Record]:
    items = sorted({order.item for order in orders})
    prices = {item: rng.choice(PRICES) for item in items}
    return [replace(order, price=prices[order.item]) for order in orders]


def _context(
    rng: random.Random, orders: list[Record], format: Format
) -> tuple[str, list[int]]:
    """The order book with a log line or policy after every fourth record."""
    text = _HEADER + "\n" + preamble(orders, format)
    starts = []
    for i, order in enumerate(orders):
        starts.append(len(text))
        text += entry(order, format) + "\n"
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
