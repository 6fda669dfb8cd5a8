"""How far a mean over seeds and clusters of examples may lie from the truth.

Shapes: S seeds, N examples, C clusters of examples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prefillshare.errors import DataError

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Spread:
    """The variance of a mean, and the t quantile that goes with it."""

    variance: float
    quantile: float

    @property
    def half_width(self) -> float:
        """From the mean to either end of the interval."""
        return self.quantile * math.sqrt(self.variance)


def two_way_spread(x_SN: Array, index: Index, level: float) -> Spread:
    """The spread of the mean of `x_SN` over seeds (rows) and clusters of columns.

    Seeds and clusters are crossed: the variance is `V_seeds + V_clusters - V_both`
    (Cameron, Gelbach & Miller 2011), never less than either alone. Its t
    quantile is the mean of those with S - 1 and with C - 1 degrees of freedom, weighted
    by their variances (Cochran 1964): it errs towards covering more than `level`. One
    seed leaves `V_clusters` and C - 1.

    Args:
        index: the cluster of each column, `0 .. C - 1`.
        level: the two-sided coverage.
    """
    seeds, clusters = len(x_SN), int(index.max()) + 1
    residual_SN = x_SN - x_SN.mean()
    both_SC = np.stack(
        [np.bincount(index, row, minlength=clusters) for row in residual_SN]
    ).astype(float)
    by_cluster = _variance_of_mean(both_SC.sum(0), x_SN.size)
    t_cluster = _t_quantile((1 + level) / 2, clusters - 1)
    if seeds == 1:
        return Spread(by_cluster, t_cluster)
    by_seed = _variance_of_mean(both_SC.sum(1), x_SN.size)
    overlap = _variance_of_mean(both_SC.ravel(), x_SN.size)
    t_seed = _t_quantile((1 + level) / 2, seeds - 1)
    total = by_seed + by_cluster
    share = by_seed / total if total > 0 else 0.0
    return Spread(
        max(by_seed, by_cluster, total - overlap),
        share * t_seed + (1 - share) * t_cluster,
    )


def paired_spread(difference_SN: Array, index: Index, level: float) -> Spread:
    """`two_way_spread` of differences; of 0/1 scores with a least variance.

    That is the variance of independent pairs after half a pair was added to each cell
    (Agresti & Min 2005): a small test without a single disagreement proves nothing.
    """
    spread = two_way_spread(difference_SN, index, level)
    if not np.isin(difference_SN, (-1, 0, 1)).all():
        return spread
    examples = difference_SN.shape[1] + 2
    mean = difference_SN.mean(0).sum() / examples
    square = (np.square(difference_SN).mean(0).sum() + 1) / examples
    least = float(square - mean**2) / examples
    return Spread(max(spread.variance, least), spread.quantile)


def _t_quantile(probability: float, degrees: int) -> float:
    # Imported late: it takes a second, and training alone does not need it.
    from scipy import stats

    return float(stats.t.ppf(probability, degrees))


def _variance_of_mean(sums: Array, count: int) -> float:
    """From the residuals' sum in each group, with the correction for few groups."""
    groups = len(sums)
    return float(groups / (groups - 1) * np.square(sums).sum() / count**2)


def checked_values(
    values: Sequence[Sequence[float]], clusters: Sequence[int] | None
) -> tuple[Array, Index]:
    """`values` as an array `[S, N]`, and the cluster `0 .. C - 1` of each example.

    Raises:
        DataError: no rows, rows of different lengths, fewer than two clusters.
    """
    lengths = {len(row) for row in values}
    if len(lengths) != 1:
        raise DataError(
            f"{len(values)} seeds with {sorted(lengths)} examples; score one seed or "
            "more, every one on the same examples"
        )
    (count,) = lengths
    labels = np.arange(count) if clusters is None else np.asarray(clusters)
    if len(labels) != count:
        raise DataError(f"{count} examples with {len(labels)} cluster numbers")
    if len(np.unique(labels)) < 2:
        raise DataError(
            f"{count} examples in {len(np.unique(labels))} cluster have no spread to "
            "estimate; score at least two clusters"
        )
    return np.asarray(values, dtype=float), np.unique(labels, return_inverse=True)[1]
