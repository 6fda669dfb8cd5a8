"""Is a system as good as a reference, up to a margin? And how many examples tell?

Shapes: S seeds, N examples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from prefillshare.errors import DataError
from prefillshare.evals.spread import (
    Array,
    Spread,
    checked_values,
    paired_spread,
)

Verdict = Literal["non-inferior", "inferior", "inconclusive"]
Scores = Sequence[Sequence[float]]


@dataclass(frozen=True)
class NonInferiority:
    """The outcome of a test of `system - reference > -margin`.

    Attributes:
        difference: the mean of system minus reference, positive if the system is
            better.
        low, high: its two-sided interval of `1 - 2 alpha`; each end is one-sided at
            `alpha`.
        examples, clusters, seeds: what the interval rests on.
        power: about how likely this test finds a truly equal system non-inferior, at
            the spread over seeds and clusters that was observed; with two to five
            seeds, give or take 0.2.
    """

    difference: float
    low: float
    high: float
    margin: float
    verdict: Verdict
    examples: int
    clusters: int
    seeds: int
    power: float


def non_inferiority(
    system: Scores,
    reference: Scores,
    margin: float,
    clusters: Sequence[int] | None = None,
    *,
    alpha: float = 0.05,
    higher_is_better: bool = True,
) -> NonInferiority:
    """Decide whether `system` is at most `margin` worse than `reference`.

    The lower end of the paired interval above `-margin` makes it non-inferior, the
    upper end below `-margin` inferior. Seed s of one is paired with seed s of the
    other; a reference that was not trained has one row, used for every seed. What the
    interval covers with one seed, or few, is said at `statistics.crossed_interval`.
    Its width is that of `spread.paired_spread`: a small test without a single
    disagreement does not prove equality.

    Args:
        system, reference: `[seed][example]`, the same examples in the same order.
        margin: in the scores' unit, positive, chosen before the scores were seen.
        clusters: which examples belong together, as N numbers.
        higher_is_better: false for a loss.

    Raises:
        DataError: the two do not pair, or there are fewer than two clusters.
        ValueError: a margin or alpha out of range.
    """
    _require(margin > 0, f"margin must be positive, got {margin}")
    _require(0 < alpha < 0.5, f"alpha must lie between 0 and 0.5, got {alpha}")
    difference_SN = _paired(system, reference) * (1 if higher_is_better else -1)
    rows, index = checked_values(difference_SN.tolist(), clusters)
    spread = paired_spread(rows, index, 1 - 2 * alpha)
    mean, half = float(rows.mean()), spread.half_width
    low, high = mean - half, mean + half
    return NonInferiority(
        mean, low, high, margin, _verdict(low, high, margin),
        rows.shape[1], int(index.max()) + 1, len(rows), _power_of(spread, margin),
    )  # fmt: skip


def _paired(system: Scores, reference: Scores) -> Array:
    """System minus reference, `[S, N]`."""
    if len(reference) not in (1, len(system)):
        raise DataError(
            f"{len(system)} seeds of the system and {len(reference)} of the reference "
            "do not pair; score as many of each, or one untrained reference"
        )
    lengths = {len(row) for row in (*system, *reference)}
    if len(lengths) != 1:
        raise DataError(
            f"the runs have {sorted(lengths)} examples; score both systems on the same"
        )
    difference: Array = np.asarray(system, float) - np.asarray(reference, float)
    return difference


def _power_of(spread: Spread, margin: float) -> float:
    """`Phi(margin / se - q)`, q being the quantile that the interval used."""
    error = math.sqrt(spread.variance)
    return NormalDist().cdf(margin / error - spread.quantile) if error else 1.0


def _verdict(low: float, high: float, margin: float) -> Verdict:
    if low > -margin:
        return "non-inferior"
    return "inferior" if high < -margin else "inconclusive"


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
