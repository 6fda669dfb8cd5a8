"""The share of a gain that is recovered, and how sure that is."""

from __future__ import annotations

import numpy as np
import pytest

from prefillshare.evals.recovery import recovery

Losses = list[list[float]]


def drawn(
    seed: int, share: float = 0.6, examples: int = 80
) -> tuple[Losses, Losses, Losses]:
    """Losses of own prefill, of a bridge and of the floor: one seed each."""
    rng = np.random.default_rng(seed)
    floor = 1.0 + 0.3 * rng.normal(size=examples)
    own = floor - 0.8 + 0.2 * rng.normal(size=examples)
    bridged = floor - 0.8 * share + 0.2 * rng.normal(size=examples)
    return [own.tolist()], [bridged.tolist()], [floor.tolist()]


def test_it_is_the_ratio_of_the_gains() -> None:
    found = recovery(
        [[1.0, 3.0] * 20], [[2.0, 3.0] * 20], [[5.0, 5.0] * 20], losses=True
    )
    assert (found.own, found.bridged, found.floor) == (2.0, 2.5, 5.0)
    assert found.share is not None
    assert found.share.mean == pytest.approx(2.5 / 3.0)


def test_scores_and_losses_have_the_same_share() -> None:
    own, bridged, floor = drawn(1)
    a, b, c = ([[-x for x in row] for row in rows] for rows in (own, bridged, floor))
    loss = recovery(own, bridged, floor, losses=True).share
    gain = recovery(a, b, c, losses=False).share
    assert loss is not None and gain is not None
    assert vars(loss) == pytest.approx(vars(gain))


def test_the_interval_covers_the_true_share_as_often_as_it_says() -> None:
    hits = 0
    for seed in range(300):
        share = recovery(*drawn(seed), losses=True).share
        assert share is not None
        hits += share.low <= 0.6 <= share.high
    # Binomial(300, 0.95) lies between 273 and 296 with probability 0.998.
    assert 273 <= hits <= 296


def test_clusters_widen_it() -> None:
    own, bridged, floor = drawn(3, examples=20)
    a, b, c = ([rows[0] * 4] for rows in (own, bridged, floor))
    alone = recovery(own, bridged, floor, losses=True).share
    together = recovery(a, b, c, list(range(20)) * 4, losses=True).share
    apart = recovery(a, b, c, losses=True).share
    assert alone is not None and together is not None and apart is not None
    assert together.high - together.low == pytest.approx(alone.high - alone.low)
    assert apart.high - apart.low < 0.7 * (alone.high - alone.low)


def test_where_nothing_is_gained_nothing_can_be_recovered() -> None:
    rng = np.random.default_rng(5)
    own, bridged, floor = (rng.normal(size=(1, 30)).tolist() for _ in range(3))
    assert recovery(own, bridged, floor, losses=True).share is None


def test_where_own_prefill_is_worse_than_none_nothing_can_be_recovered() -> None:
    own, bridged, floor = drawn(2)
    assert recovery(floor, bridged, own, losses=True).share is None
    assert recovery(own, bridged, floor, losses=False).share is None
