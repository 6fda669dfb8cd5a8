"""Non-inferiority: its verdicts, and the power that is stated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from prefillshare.errors import DataError
from prefillshare.evals.noninferiority import non_inferiority

Pair = tuple[list[float], list[float]]


def exact_matches(
    rng: np.random.Generator, examples: int, only_system: float, only_reference: float
) -> Pair:
    """Two systems' exact match, of which each is right alone as often as given."""
    draw = rng.random(examples)
    system = draw < only_system
    reference = (draw >= only_system) & (draw < only_system + only_reference)
    both = draw > 0.6
    return (system | both).astype(float).tolist(), (reference | both).astype(
        float
    ).tolist()


def concluded(
    examples: int, only_system: float, only_reference: float, margin: float
) -> float:
    """How often simulated tests conclude non-inferiority."""
    rng = np.random.default_rng(11)
    runs, wins = 600, 0
    for _ in range(runs):
        a, b = exact_matches(rng, examples, only_system, only_reference)
        wins += non_inferiority([a], [b], margin).verdict == "non-inferior"
    return wins / runs


def test_a_true_difference_of_the_margin_passes_as_rarely_as_alpha_says() -> None:
    # Binomial(600, 0.05) is above 46 with probability 0.002.
    assert concluded(300, 0.03, 0.08, 0.05) <= 46 / 600


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 3), st.floats(-1, 1), st.floats(0.05, 1))
def test_the_verdict_is_read_off_the_interval(
    number: int, seeds: int, shift: float, margin: float
) -> None:
    rng = np.random.default_rng(number)
    system = rng.normal(shift, 0.5, (seeds, 12)).tolist()
    result = non_inferiority(system, rng.normal(0, 0.5, (seeds, 12)).tolist(), margin)
    assert result.low <= result.difference <= result.high
    assert (result.verdict == "non-inferior") == (result.low > -margin)
    assert (result.verdict == "inferior") == (result.high < -margin)
    assert (result.examples, result.clusters, result.seeds) == (12, 12, seeds)


def test_of_one_seed_the_lower_end_is_the_one_sided_paired_t_test() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(0, 1, 20), rng.normal(0, 1, 20)
    result = non_inferiority([a.tolist()], [b.tolist()], 0.2)
    test = stats.ttest_rel(a, b, alternative="greater").confidence_interval(0.95)
    assert result.low == pytest.approx(test.low, rel=1e-4)


def test_a_loss_counts_the_other_way() -> None:
    worse, better = [2.0, 2.1, 1.9, 2.0], [1.0, 1.0, 1.1, 1.0]
    as_loss = non_inferiority([worse], [better], 0.5, higher_is_better=False)
    assert as_loss.verdict == "inferior"
    assert non_inferiority([worse], [better], 0.5).verdict == "non-inferior"


def test_few_examples_without_disagreement_prove_nothing() -> None:
    few, many = [1.0, 0.0] * 4, [1.0, 0.0] * 400
    assert non_inferiority([few], [few], 0.05).verdict == "inconclusive"
    assert non_inferiority([many], [many], 0.05).verdict == "non-inferior"


def test_an_untrained_reference_stands_against_every_seed() -> None:
    rng = np.random.default_rng(2)
    seeds, reference = rng.random((3, 10)).tolist(), rng.random(10).tolist()
    once = non_inferiority(seeds, [reference], 0.1)
    assert once == non_inferiority(seeds, [reference] * 3, 0.1)


def test_what_does_not_pair_is_refused() -> None:
    with pytest.raises(DataError, match="2 seeds of the system and 3 of the reference"):
        non_inferiority([[1.0, 0.0]] * 2, [[1.0, 0.0]] * 3, 0.1)
    with pytest.raises(DataError, match=r"the runs have \[1, 2\] examples"):
        non_inferiority([[1.0, 0.0]], [[1.0]], 0.1)


@pytest.mark.parametrize(
    ("margin", "alpha", "message"),
    [(0.0, 0.05, "margin must be positive"), (0.1, 0.5, "alpha must lie between")],
)
def test_an_impossible_design_is_refused(
    margin: float, alpha: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        non_inferiority([[1.0, 0.0]], [[1.0, 0.0]], margin, alpha=alpha)


@pytest.mark.parametrize(("seeds", "examples"), [(1, 200), (3, 200), (5, 400)])
def test_the_stated_power_is_about_that_of_the_test_made(
    seeds: int, examples: int
) -> None:
    rng = np.random.default_rng(5)
    found, stated = [], []
    for _ in range(300):
        pairs = [exact_matches(rng, examples, 0.1, 0.1) for _ in range(seeds)]
        tested = non_inferiority([a for a, _ in pairs], [b for _, b in pairs], 0.05)
        found.append(tested.verdict == "non-inferior")
        stated.append(tested.power)
    gap = float(np.mean(found)) - float(np.mean(stated))
    assert -0.1 < gap < 0.2
