"""Means with their intervals, over clusters of examples and over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prefillshare.evals.spread import (
    Array,
    Spread,
    checked_values,
    paired_spread,
    two_way_spread,
)


@dataclass(frozen=True)
class Interval:
    """A mean and its interval, of 95 % unless whoever made it was asked for another."""

    mean: float
    low: float
    high: float


def mean_interval(
    values: Sequence[float], clusters: Sequence[int] | None = None
) -> Interval:
    """The mean of `values` with its 95 % interval, clustered: see `score_interval`.

    One cluster has no spread to estimate: its ends are not numbers.

    Args:
        clusters: which values belong together (questions over one context are not
            independent); by default each stands for itself.

    Raises:
        DataError: no values, or a cluster number missing for some.
    """
    if _is_one(values, clusters):
        return Interval(sum(values) / len(values), math.nan, math.nan)
    return score_interval([values], clusters)


def paired_difference(
    a: Sequence[float], b: Sequence[float], clusters: Sequence[int] | None = None
) -> Interval:
    """The mean of `a - b` over the same examples, with its interval.

    As `mean_interval`; its width is that of `spread.paired_spread`.
    """
    values = [x - y for x, y in zip(a, b, strict=True)]
    if _is_one(values, clusters):
        return Interval(sum(values) / len(values), math.nan, math.nan)
    x_SN, index = checked_values([values], clusters)
    return _around(float(x_SN.mean()), paired_spread(x_SN, index, 0.95))


def crossed_interval(
    values: Sequence[Sequence[float]],
    clusters: Sequence[int] | None = None,
    *,
    level: float = 0.95,
) -> Interval:
    """The mean of `values[seed][example]` with a t interval over both.

    What it covers depends on the number of seeds. With **one** it is conditional on
    that training run: it says what other test examples would have given, not what
    another seed would. With **several** it also says what other seeds would have
    given. With **few** (two to five) the spread between seeds is itself poorly known;
    the t quantile has as few degrees of freedom as that leaves, so where seeds differ
    the interval is wide, and more seeds, not more examples, are what narrows it.

    Args:
        values: S rows of N; column i is the same test example in every row.
        clusters: which examples belong together, as N numbers; by default each stands
            for itself.
        level: the coverage, e.g. 0.9 for a one-sided test at 5 %.

    Raises:
        DataError: no rows, rows of different lengths, fewer than two clusters.
    """
    x_SN, index = checked_values(values, clusters)
    return _around(float(x_SN.mean()), two_way_spread(x_SN, index, level))


def score_interval(
    values: Sequence[Sequence[float]], clusters: Sequence[int] | None = None
) -> Interval:
    """The mean of scores with its 95 % interval: `crossed_interval` if not all 0 or 1.

    Where all are, it is Wilson's interval of as many independent examples as the
    spread of `crossed_interval` amounts to, N at most (Franco, Little, Louis & Slud
    2019): within the range of a share, and of some width also where all agree. Takes
    and raises what that does.
    """
    x_SN, index = checked_values(values, clusters)
    if not np.isin(x_SN, (0, 1)).all():
        return crossed_interval(values, clusters)
    return _wilson(x_SN, two_way_spread(x_SN, index, 0.95))


def _is_one(values: Sequence[float], clusters: Sequence[int] | None) -> bool:
    return len(set(clusters if clusters is not None else range(len(values)))) == 1


def _around(mean: float, spread: Spread) -> Interval:
    return Interval(mean, mean - spread.half_width, mean + spread.half_width)


def _wilson(x_SN: Array, spread: Spread) -> Interval:
    share, examples = float(x_SN.mean()), float(x_SN.shape[1])
    if spread.variance > 0:
        examples = min(examples, share * (1 - share) / spread.variance)
    q = spread.quantile**2 / examples
    middle = (share + q / 2) / (1 + q)
    half = math.sqrt(q * share * (1 - share) + q**2 / 4) / (1 + q)
    # Rounding must not put an end on the wrong side of the mean.
    return Interval(share, min(share, middle - half), max(share, middle + half))
