"""Bootstrap intervals."""

from __future__ import annotations

import numpy as np
import pytest

from prefillshare.evals.statistics import bootstrap, paired_difference


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for i in range(200):
        interval = bootstrap(list(rng.normal(3.0, 1.0, 40)), seed=i, resamples=400)
        covered += interval.low <= 3.0 <= interval.high
    # Binomial(200, 0.95) lies within this range with probability above 0.999.
    assert 176 <= covered <= 199


def test_clusters_widen_the_interval() -> None:
    values = [float(i // 8) for i in range(64)]
    alone = bootstrap(values)
    together = bootstrap(values, [i // 8 for i in range(64)])
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_a_paired_difference_ignores_what_both_share() -> None:
    hard = list(np.random.default_rng(0).normal(0, 10, 50))
    interval = paired_difference([x + 1 for x in hard], hard)
    assert interval.low == pytest.approx(1) == interval.high


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="2 values with 3 cluster numbers"):
        bootstrap([1.0, 2.0], [0, 1, 2])
