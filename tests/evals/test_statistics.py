"""Intervals of one run's scores."""

from __future__ import annotations

import math

import numpy as np
import pytest

from prefillshare.errors import DataError
from prefillshare.evals.statistics import mean_interval, paired_difference


@pytest.mark.parametrize("clusters", [4, 8, 40])
def test_the_interval_covers_the_mean_as_often_as_it_says(clusters: int) -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        shared = np.repeat(rng.normal(3.0, 1.0, clusters), 5)
        values = shared + rng.normal(0.0, 1.0, 5 * clusters)
        found = mean_interval(values.tolist(), np.arange(5 * clusters) // 5)  # type: ignore[arg-type]
        covered += found.low <= 3.0 <= found.high
    # Binomial(400, 0.95) lies within this range with probability above 0.999.
    assert 364 <= covered <= 395


def test_clusters_widen_the_interval() -> None:
    values = [float(i // 8) for i in range(64)]
    alone = mean_interval(values)
    together = mean_interval(values, [i // 8 for i in range(64)])
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_a_share_stays_within_its_range() -> None:
    found = mean_interval([1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert 0.0 < found.low < found.mean < found.high < 1.0


@pytest.mark.parametrize(("right", "low", "high"), [(0, 0.0, 0.088), (40, 0.912, 1.0)])
def test_scores_that_all_agree_prove_no_certainty(
    right: int, low: float, high: float
) -> None:
    found = mean_interval([float(i < right) for i in range(40)])
    # Wilson's interval with 40 examples at 1.96; a t quantile is a little wider.
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.01)
    assert found.low <= found.mean <= found.high


@pytest.mark.parametrize("share", [0.02, 0.3, 0.95])
@pytest.mark.parametrize("clusters", [12, 60])
def test_the_interval_of_a_share_covers_it_as_often_as_it_says(
    share: float, clusters: int
) -> None:
    rng = np.random.default_rng(2)
    # Questions over one context succeed and fail together, to a degree.
    shape = 4.0
    covered = 0
    for _ in range(400):
        hard = rng.beta(shape * share, shape * (1 - share), clusters).repeat(8)
        values = (rng.random(8 * clusters) < hard).astype(float).tolist()
        found = mean_interval(values, [i // 8 for i in range(8 * clusters)])
        covered += found.low <= share <= found.high
    # Binomial(400, 0.93) is above 355 with probability above 0.99.
    assert covered >= 355


def test_pairs_that_all_agree_prove_no_equality() -> None:
    same = [1.0, 0.0] * 20
    interval = paired_difference(same, same)
    assert interval.mean == 0.0
    assert interval.low == pytest.approx(-interval.high) and interval.high > 0.02


def test_a_paired_difference_ignores_what_both_share() -> None:
    hard = list(np.random.default_rng(0).normal(0, 10, 50))
    interval = paired_difference([x + 1 for x in hard], hard)
    assert interval.low == pytest.approx(1) == interval.high


def test_one_cluster_has_a_mean_and_no_interval() -> None:
    found = mean_interval([1.0, 3.0], [7, 7])
    assert found.mean == 2.0 and math.isnan(found.low) and math.isnan(found.high)


def test_lengths_must_agree() -> None:
    with pytest.raises(DataError, match="2 examples with 3 cluster numbers"):
        mean_interval([1.0, 2.0], [0, 1, 2])
