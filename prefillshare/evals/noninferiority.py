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
from prefillshare.evals.statistics import (
    Array,
    Spread,
    checked_values,
    two_way_spread,
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


@dataclass(frozen=True)
class McNemar:
    """Examples that only the first, or only the second, got right; the exact p."""

    only_first: int
    only_second: int
    p_value: float


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
    For scores that are 0 or 1 its variance is at least that of independent pairs after
    half a pair was added to each cell (Agresti & Min 2005), so that a small test
    without a single disagreement does not prove equality.

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
    spread = _floored(rows, two_way_spread(rows, index, 1 - 2 * alpha))
    mean, half = float(rows.mean()), spread.half_width
    low, high = mean - half, mean + half
    return NonInferiority(
        mean, low, high, margin, _verdict(low, high, margin),
        rows.shape[1], int(index.max()) + 1, len(rows), _power_of(spread, margin),
    )  # fmt: skip


def power(
    discordance: float,
    examples: float,
    margin: float,
    *,
    alpha: float = 0.05,
    difference: float = 0.0,
) -> float:
    """How likely binary scores of `examples` pairs are to show non-inferiority.

    The normal approximation `Phi((difference + margin) / se - z)` with
    `se**2 = (discordance - difference**2) / examples` and z the normal quantile at
    `1 - alpha`: the test of `non_inferiority` for one seed and independent examples.
    Questions over one context are not independent: divide `examples` by
    `design_effect`. More examples do not reduce the spread between seeds.

    Args:
        discordance: the share of examples that exactly one of the two gets right.
        difference: the true difference, system minus reference.

    Raises:
        ValueError: an argument out of range.
    """
    _check_design(discordance, margin, alpha, difference)
    _require(examples > 0, f"examples must be positive, got {examples}")
    error = math.sqrt((discordance - difference**2) / examples)
    distance = difference + margin
    if error == 0:
        return float(distance > 0)
    normal = NormalDist()
    return normal.cdf(distance / error - normal.inv_cdf(1 - alpha))


def examples_needed(
    discordance: float,
    margin: float,
    *,
    target: float = 0.8,
    alpha: float = 0.05,
    difference: float = 0.0,
    design_effect: float = 1.0,
) -> int:
    """The fewest examples whose `power` reaches `target`.

    Raises:
        ValueError: an argument out of range, or a true difference at or below
            `-margin`, which no number of examples shows to be non-inferior.
    """
    _check_design(discordance, margin, alpha, difference)
    _require(0.5 <= target < 1, f"target must lie in [0.5, 1), got {target}")
    _require(design_effect >= 1, f"design_effect must be >= 1, got {design_effect}")
    if difference <= -margin:
        raise ValueError(
            f"a true difference of {difference} is not above -{margin}: no number of "
            "examples shows non-inferiority; widen the margin"
        )
    normal = NormalDist()
    z = normal.inv_cdf(1 - alpha) + normal.inv_cdf(target)
    variance = discordance - difference**2
    independent = variance * (z / (difference + margin)) ** 2
    return max(1, math.ceil(independent * design_effect))


def design_effect(cluster_size: float, correlation: float) -> float:
    """`1 + (m - 1) rho`: how much clusters of m inflate a variance (Kish 1965)."""
    _require(cluster_size >= 1, f"cluster_size must be >= 1, got {cluster_size}")
    _require(0 <= correlation <= 1, f"correlation must be 0 to 1, got {correlation}")
    return 1 + (cluster_size - 1) * correlation


def mcnemar_exact(first: Sequence[float], second: Sequence[float]) -> McNemar:
    """McNemar's exact two-sided test that two systems are equally often right.

    Given the discordant pairs, either kind is as likely (binomial with one half). A
    large p is no proof of equality: that is what `non_inferiority` tests. Examples
    count as independent.

    Raises:
        DataError: scores that do not pair, or are not 0 or 1.
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if len(a) != len(b) or not (np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all()):
        raise DataError(
            f"McNemar's test needs two equally long lists of 0 and 1, got {len(a)} and "
            f"{len(b)} scores; give each example's exact match"
        )
    only_first, only_second = int((a > b).sum()), int((b > a).sum())
    n, k = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(n, i) for i in range(k + 1)) / 2**n
    return McNemar(only_first, only_second, min(1.0, 2 * tail))


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


def _floored(difference_SN: Array, spread: Spread) -> Spread:
    if not np.isin(difference_SN, (-1, 0, 1)).all():
        return spread
    examples = difference_SN.shape[1] + 2
    mean = difference_SN.mean(0).sum() / examples
    square = (np.square(difference_SN).mean(0).sum() + 1) / examples
    least = float(square - mean**2) / examples
    return Spread(max(spread.variance, least), spread.quantile)


def _power_of(spread: Spread, margin: float) -> float:
    """`Phi(margin / se - q)`, q being the quantile that the interval used."""
    error = math.sqrt(spread.variance)
    return NormalDist().cdf(margin / error - spread.quantile) if error else 1.0


def _verdict(low: float, high: float, margin: float) -> Verdict:
    if low > -margin:
        return "non-inferior"
    return "inferior" if high < -margin else "inconclusive"


def _check_design(
    discordance: float, margin: float, alpha: float, difference: float
) -> None:
    _require(0 <= discordance <= 1, f"discordance must be 0 to 1, got {discordance}")
    _require(margin > 0, f"margin must be positive, got {margin}")
    _require(0 < alpha < 0.5, f"alpha must lie between 0 and 0.5, got {alpha}")
    _require(
        abs(difference) <= discordance,
        f"a difference of {difference} needs a discordance of at least as much, got "
        f"{discordance}",
    )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
