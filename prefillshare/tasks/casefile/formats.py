"""How records stand in the context.

Decoders are trained on `line`; the other formats hold the same facts in other words
and test whether what was learned carries over:

    line        order 417: item lamp, town Lyon, quantity 3, price 12, customer Ada Hill
    table       | 417 | lamp | Lyon | 3 | 12 | Ada Hill |
    json        {"order": 417, "item": "lamp", "town": "Lyon", …}
    prose       Under number 417, Ada Hill ordered 3 lamps for Lyon at 12 euros each.
    price_list  as `line` without the price, which stands in a price list by item at
                the top: what an order costs takes two facts
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Literal, get_args

from prefillshare.tasks.casefile.records import Record

Format = Literal["line", "table", "json", "prose", "price_list"]
FORMATS: tuple[Format, ...] = get_args(Format)

_COLUMNS = ("order", "item", "town", "quantity", "price", "customer")


def entry(record: Record, format: Format) -> str:
    """The one line that says everything about `record` (its price apart, if listed)."""
    values = record.values()
    match format:
        case "line":
            return record.line()
        case "table":
            return _row(values[column] for column in _COLUMNS)
        case "json":
            return json.dumps({column: values[column] for column in _COLUMNS})
        case "prose":
            return (
                f"Under number {record.number}, {record.customer} ordered "
                f"{record.quantity} {record.item}s for {record.town} "
                f"at {record.price} euros each."
            )
        case "price_list":
            return record.line().replace(f", price {record.price}", "")


def preamble(records: Iterable[Record], format: Format) -> str:
    """What stands before the first record: lines, each with its end; often none."""
    if format == "table":
        return _row(_COLUMNS) + "\n"
    if format == "price_list":
        prices = {record.item: record.price for record in records}
        listed = ", ".join(f"{item} {prices[item]}" for item in sorted(prices))
        return f"price list: {listed}\n"
    return ""


def _row(cells: Iterable[object]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
