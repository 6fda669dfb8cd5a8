"""Orders, and the words that they are made of.

Train and test are disjoint by construction: order numbers and surnames are divided
between the splits (`Pools`), so no record of one can occur in the other.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import get_args

from prefillshare.errors import DataError
from prefillshare.tasks.base import Split

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
QUANTITIES = range(2, 10)
PRICES = range(2, 21)

# Field names and what they hold, in an answer or of a record.
Values = dict[str, int | str]


@dataclass(frozen=True)
class Record:
    """One order. `number` has three digits; `price` is per unit, in whole euros."""

    number: int
    customer: str
    item: str
    quantity: int
    price: int
    town: str

    def values(self) -> Values:
        """All that can be asked about the record; `total` is quantity x price."""
        return {
            "order": self.number,
            "item": self.item,
            "town": self.town,
            "quantity": self.quantity,
            "price": self.price,
            "customer": self.customer,
            "total": self.quantity * self.price,
        }


@dataclass(frozen=True)
class Pools:
    """What one split may draw from."""

    numbers: tuple[int, ...]
    surnames: tuple[str, ...]

    @classmethod
    def of(cls, split: Split) -> Pools:
        """Every fifth number and every fourth surname belong to the test split.

        Raises:
            DataError: there is no such split.
        """
        if split not in get_args(Split):
            splits = ", ".join(get_args(Split))
            raise DataError(f"no split {split!r}; case files are split into {splits}")
        test = split == "test"
        return cls(
            tuple(n for n in range(100, 1000) if (n % 5 == 0) == test),
            tuple(s for i, s in enumerate(SURNAMES) if (i % 4 == 3) == test),
        )

    def draw(self, rng: random.Random, count: int) -> list[Record]:
        """`count` records with distinct numbers."""
        return [self._record(rng, n) for n in rng.sample(self.numbers, count)]

    def _record(self, rng: random.Random, number: int) -> Record:
        customer = f"{rng.choice(FORENAMES)} {rng.choice(self.surnames)}"
        return Record(
            number,
            customer,
            rng.choice(ITEMS),
            rng.choice(QUANTITIES),
            rng.choice(PRICES),
            rng.choice(TOWNS),
        )
