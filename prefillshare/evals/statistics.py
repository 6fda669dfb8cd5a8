"""Means with bootstrap intervals, and paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % percentile bootstrap interval."""

    mean: float
    low: float
    high: float


def bootstrap(
    values: Sequence[float],
    clusters: Sequence[int] | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """The mean of `values`, resampled by cluster.

    Args:
        clusters: which values belong together (questions over one context are not
            independent); by default each stands for itself.

    Raises:
        ValueError: no values, or a cluster number missing for some.
    """
    x = np.asarray(values, dtype=float)
    labels = np.arange(len(x)) if clusters is None else np.asarray(clusters)
    if len(x) == 0 or len(labels) != len(x):
        raise ValueError(f"{len(x)} values with {len(labels)} cluster numbers")
    _, index = np.unique(labels, return_inverse=True)
    sums = np.bincount(index, weights=x)
    counts = np.bincount(index)
    drawn = np.random.default_rng(seed).integers(
        0, len(sums), size=(resamples, len(sums))
    )
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(float(x.mean()), float(low), float(high))


def paired_difference(
    a: Sequence[float], b: Sequence[float], clusters: Sequence[int] | None = None
) -> Interval:
    """The mean of `a - b` over the same examples, with its interval."""
    pairs = zip(a, b, strict=True)
    return bootstrap([x - y for x, y in pairs], clusters)
