"""Intervals over seeds and clusters of examples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from prefillshare.errors import DataError
from prefillshare.evals.statistics import crossed_interval

LABELS = [i // 4 for i in range(80)]


def scores(
    rng: np.random.Generator, seeds: int, between_seeds: float
) -> list[list[float]]:
    """Noise that seeds share by cluster, and that each seed and value has alone."""
    cluster = rng.normal(0, 0.5, 20).repeat(4)
    seed = rng.normal(0, between_seeds, (seeds, 1))
    rows: list[list[float]] = (cluster + seed + rng.normal(0, 1, (seeds, 80))).tolist()
    return rows


@pytest.mark.parametrize(
    ("seeds", "between_seeds"), [(1, 0.0), (2, 0.2), (3, 0.0), (3, 0.5), (8, 0.2)]
)
def test_the_interval_covers_the_truth_at_least_as_often_as_it_says(
    seeds: int, between_seeds: float
) -> None:
    rng = np.random.default_rng(7)
    covered = 0
    for _ in range(400):
        interval = crossed_interval(
            scores(rng, seeds, between_seeds), LABELS, level=0.9
        )
        covered += interval.low <= 0 <= interval.high
    # Binomial(400, 0.9) is below 341 with probability 0.001.
    assert 341 <= covered <= 396


def test_one_seed_says_nothing_of_other_seeds() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        interval = crossed_interval(scores(rng, 1, 1.0), LABELS, level=0.9)
        covered += interval.low <= 0 <= interval.high
    assert covered < 120


def test_one_seed_of_independent_examples_is_the_t_interval() -> None:
    x = np.random.default_rng(0).normal(2, 3, 12)
    interval = crossed_interval([x.tolist()])
    low, high = stats.t.interval(0.95, 11, x.mean(), stats.sem(x))
    assert (interval.low, interval.high) == pytest.approx((low, high), rel=1e-4)


def test_clusters_widen_it_as_if_each_were_one_example() -> None:
    means = np.random.default_rng(1).normal(0, 1, 10)
    alone = crossed_interval([means.tolist()])
    repeated = crossed_interval(
        [means.repeat(6).tolist()], list(np.arange(10).repeat(6))
    )
    assert vars(repeated) == pytest.approx(vars(alone))


def test_seeds_that_differ_widen_it() -> None:
    row = np.random.default_rng(1).normal(0, 1, 50)
    same = crossed_interval([row.tolist()] * 3)
    apart = crossed_interval([(row + shift).tolist() for shift in (-1, 0, 1)])
    assert apart.high - apart.low > 3 * (same.high - same.low)


def test_noise_alone_is_not_counted_once_by_seed_and_once_by_cluster() -> None:
    x = np.random.default_rng(0).normal(0, 1, (60, 60))
    interval = crossed_interval(x.tolist(), level=0.9)
    # Of 3,600 independent values; counted twice it were 1.41 times as wide.
    wanted = 2 * 1.645 / 60
    assert interval.high - interval.low == pytest.approx(wanted, rel=0.2)


def test_spreads_of_seeds_and_of_examples_add_up() -> None:
    rng = np.random.default_rng(0)
    seed, example = rng.normal(0, 1, (60, 1)), rng.normal(0, 1, 60)
    interval = crossed_interval((seed + example).tolist(), level=0.9)
    wanted = 2 * 1.67 * (seed.var(ddof=1) / 60 + example.var(ddof=1) / 60) ** 0.5
    assert interval.high - interval.low == pytest.approx(wanted, rel=0.05)


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 4),
    st.lists(st.integers(0, 3), min_size=4, max_size=12).filter(
        lambda labels: len(set(labels)) > 1
    ),
    st.integers(0, 2**31),
)
def test_it_ignores_the_order_of_seeds_and_of_examples(
    seeds: int, labels: list[int], number: int
) -> None:
    rng = np.random.default_rng(number)
    x = rng.normal(0, 1, (seeds, len(labels)))
    order, rows = rng.permutation(len(labels)), rng.permutation(seeds)
    shuffled = x[rows][:, order].tolist()
    again = crossed_interval(shuffled, [labels[i] for i in order])
    interval = crossed_interval(x.tolist(), labels)
    assert vars(again) == pytest.approx(vars(interval), abs=1e-12)
    assert interval.low <= interval.mean <= interval.high


@pytest.mark.parametrize(
    ("values", "clusters", "message"),
    [
        ([], None, "0 seeds"),
        ([[1.0, 2.0], [1.0]], None, r"2 seeds with \[1, 2\] examples"),
        ([[1.0, 2.0]], [0], "2 examples with 1 cluster numbers"),
        ([[1.0, 2.0]], [5, 5], "at least two clusters"),
    ],
)
def test_what_has_no_interval_is_refused(
    values: list[list[float]], clusters: list[int] | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        crossed_interval(values, clusters)
