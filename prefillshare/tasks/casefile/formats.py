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

from collections.abc import Iterable
from typing import Literal, get_args

from prefillshare.errors import DataError
from prefillshare.tasks.casefile.records import Record

Format = Literal["line", "table", "json", "prose", "price_list"]
FORMATS: tuple[Format, ...] = get_args(Format)

_COLUMNS = ("order", "item", "town", "quantity", "price", "customer")
_ENTRIES: dict[str, str] = {
    "line": (
        "order {order}: item {item}, town {town}, "
        "quantity {quantity}, price {price}, customer {customer}"
    ),
    "table": "| {order} | {item} | {town} | {quantity} | {price} | {customer} |",
    "json": (
        '{{"order": {order}, "item": "{item}", "town": "{town}", '
        '"quantity": {quantity}, "price": {price}, "customer": "{customer}"}}'
    ),
    "prose": (
        "Under number {order}, {customer} ordered {quantity} {item}s for {town} "
        "at {price} euros each."
    ),
    "price_list": (
        "order {order}: item {item}, town {town}, "
        "quantity {quantity}, customer {customer}"
    ),
}


def wording(format: Format) -> str:
    """How a record stands in the context: text with a `{field}` for each value.

    Raises:
        DataError: there is no such format.
    """
    if format not in _ENTRIES:
        raise DataError(
            f"no format {format!r}; a case file is written as {', '.join(FORMATS)}"
        )
    return _ENTRIES[format]


def entry(record: Record, format: Format) -> str:
    """The one line that says everything about `record` (its price apart, if listed)."""
    return wording(format).format_map(record.values())


def preamble(records: Iterable[Record], format: Format) -> str:
    """What stands before the first record: lines, each with its end; often none."""
    if format == "table":
        return "| " + " | ".join(_COLUMNS) + " |\n"
    if format == "price_list":
        prices = {record.item: record.price for record in records}
        listed = ", ".join(f"{item} {prices[item]}" for item in sorted(prices))
        return f"price list: {listed}\n"
    return ""
