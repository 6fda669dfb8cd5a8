"""What a soak does: transfers, faults and harm, drawn by a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_128_hexdigest

from prefillshare.transfer.base import Access, Batch, Ranges
from prefillshare.transfer.ranges import Pieces

Bytes = NDArray[np.uint8]
Mode = Literal["plain", "sealed", "hosted"]
# What is done to one transfer, on either side.
FAULTS = (
    "none",
    "cancel",
    "timeout",
    "revoke",
    "race",
    "expire",
    "late",
    "forged",
    "again",
    "leave",
)
Fault = str
# What is done on the way to all transfers of a wave, or to the process at one end.
HARMS = (
    "none",
    "reset",
    "stall",
    "cut",
    "flip data",
    "flip control",
    "kill lender",
    "kill mover",
)
Harm = str
LARGE = 1 << 20
HALF_FED = frozenset({"cancel", "timeout", "revoke", "expire", "leave"})


@dataclass(frozen=True)
class Case:
    """One transfer of `size` bytes in `rows` rows, to or from a grant of `pieces`."""

    number: int
    access: Access
    size: int
    rows: int
    pieces: int
    fed: bool
    fault: Fault

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values."""
        return asdict(self)


@dataclass(frozen=True)
class Wave:
    """Transfers at once, and the harm done to their way after a part of their bytes."""

    cases: tuple[Case, ...]
    harm: Harm
    after: float


def waves(seed: int, count: int) -> Iterator[Wave]:
    """Waves of `count` transfers in all, the first of which do each harm once."""
    rng = random.Random(seed)
    due = rng.sample(HARMS[1:], len(HARMS) - 1)
    number = 0
    while number < count:
        several = min(rng.randint(1, 6), count - number)
        cases = tuple(_case(rng, number + n) for n in range(several))
        number += several
        weights = [40, 12, 6, 6, 8, 6, 3, 3]
        harm, after = rng.choices(HARMS, weights)[0], rng.random()
        if due:
            harm, cases = due.pop(), (_large(cases[0]), *cases[1:])
            # Its bytes do pass, whatever is done to the others.
            after *= cases[0].size / sum(case.size for case in cases)
        if harm.startswith("kill"):
            cases = tuple(_plain(case) for case in cases)
        yield Wave(cases, harm, after)


def _case(rng: random.Random, number: int) -> Case:
    fault = rng.choices(FAULTS, [50] + [5] * (len(FAULTS) - 1))[0]
    size = rng.choice([rng.randint(2, 2000), rng.randint(2, 40_000), 1 << 18, LARGE])
    size += rng.randint(0, 99)
    return Case(
        number,
        rng.choice(["read", "write"]),
        size,
        min(size, rng.choice([2, 3, 40, 1000])),
        min(size, rng.choice([1, 2, 30])),
        fault in HALF_FED or rng.random() < 0.3,
        fault,
    )


def _plain(case: Case) -> Case:
    return replace(case, fault="none")


def _large(case: Case) -> Case:
    return replace(_plain(case), size=LARGE, rows=1000)


class Layout:
    """Where the bytes of a case lie, before and after; the same in every process."""

    def __init__(self, case: Case) -> None:
        rng = np.random.default_rng(case.number)
        self.access = case.access
        lengths = _split(rng, case.size, case.pieces)
        starts, lent = _placed(rng, lengths)
        self.ranges: Ranges = np.column_stack([starts, lengths])
        lengths = _split(rng, case.size, case.rows)
        starts, near = _placed(rng, lengths)
        remote = np.cumsum(lengths) - lengths
        batch = np.column_stack([starts, remote, lengths])
        self.batch: Batch = rng.permutation(batch)
        self.lender: Bytes = rng.integers(0, 256, lent, np.uint8)
        self.mover: Bytes = rng.integers(0, 256, near, np.uint8)

    @property
    def target(self) -> Bytes:
        """The side that is written to, as it is before."""
        return self.mover if self.access == "read" else self.lender

    @property
    def goal(self) -> Ranges:
        """What may be written to of the target."""
        return self.batch[:, [0, 2]] if self.access == "read" else self.ranges

    def after(self) -> Bytes:
        """The target, once all bytes were moved."""
        found = self.target.copy()
        lender = found if self.access == "write" else self.lender
        pieces = Pieces(lender.data, self.ranges)
        for local, remote, length in self.batch.tolist():
            at = local
            for view in pieces.views(remote, remote + length):
                here = slice(at, at + view.nbytes)
                if self.access == "read":
                    found[here] = np.frombuffer(view, np.uint8)
                else:
                    view[:] = self.mover[here].data
                at += view.nbytes
        return found

    def rim(self, memory: Bytes) -> str:
        """A digest of what nothing may have written to."""
        around = memory.copy()
        for first, length in self.goal.tolist():
            around[first : first + length] = 0
        return digest(around)


def digest(memory: Bytes) -> str:
    """Of all bytes, as hexadecimal."""
    return xxh3_128_hexdigest(memory.data)


def _split(rng: np.random.Generator, total: int, count: int) -> NDArray[np.int64]:
    cuts = np.sort(rng.choice(total - 1, count - 1, replace=False) + 1)
    return np.diff(np.concatenate([[0], cuts, [total]])).astype(np.int64)


def _placed(
    rng: np.random.Generator, lengths: NDArray[np.int64]
) -> tuple[NDArray[np.int64], int]:
    """Starts in another order, with gaps, and how much memory that needs."""
    order = rng.permutation(len(lengths))
    gaps = rng.integers(0, 9, len(lengths))
    starts = np.empty_like(lengths)
    starts[order] = np.cumsum(lengths[order] + gaps[order]) - lengths[order]
    return starts, int(lengths.sum() + gaps.sum()) + 50
