"""Calibration error over equal-mass bins, Brier score, reliability rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefillshare.errors import DataError
from prefillshare.evals.calibration import ReliabilityRow, calibration

PREDICTIONS = st.lists(
    st.tuples(
        st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0])), st.integers(0, 1)
    ),
    min_size=1,
    max_size=60,
)


def test_a_table_worked_by_hand() -> None:
    found = calibration([0.9, 0.2, 0.6, 0.4], [1, 0, 0, 1], bins=2)
    assert [vars(row) for row in found.rows] == [
        pytest.approx(vars(ReliabilityRow(0.2, 0.4, 0.3, 0.5, 2))),
        pytest.approx(vars(ReliabilityRow(0.6, 0.9, 0.75, 0.5, 2))),
    ]
    assert found.ece == pytest.approx(0.5 * 0.2 + 0.5 * 0.25)
    assert found.brier == pytest.approx((0.1**2 + 0.2**2 + 0.6**2 + 0.6**2) / 4)
    assert found.n == 4


def test_a_calibrated_model_has_little_error_and_an_overconfident_one_its_excess() -> (
    None
):
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.3, 0.7, 5000)
    correct = (rng.random(5000) < confidence).astype(float).tolist()
    # A bin of 500 has a standard error of 0.022.
    assert calibration(confidence.tolist(), correct).ece < 0.03
    assert calibration((confidence + 0.3).tolist(), correct).ece == pytest.approx(
        0.3, abs=0.03
    )


@given(PREDICTIONS, st.integers(1, 12))
def test_bins_hold_every_prediction_once_and_never_split_a_tie(
    predictions: list[tuple[float, int]], bins: int
) -> None:
    confidence = [c for c, _ in predictions]
    correct = [float(y) for _, y in predictions]
    found = calibration(confidence, correct, bins=bins)
    assert sum(row.n for row in found.rows) == found.n == len(predictions)
    assert 1 <= len(found.rows) <= bins
    for row, later in zip(found.rows, found.rows[1:], strict=False):
        assert row.high < later.low
    assert sum(row.n * row.accuracy for row in found.rows) == pytest.approx(
        sum(correct)
    )
    assert 0 <= found.ece <= 1 + 1e-12
    assert 0 <= found.brier <= 1


@given(st.permutations(range(30)))
def test_distinct_confidences_fill_bins_evenly_in_any_order(order: list[int]) -> None:
    found = calibration([i / 30 for i in order], [float(i % 2) for i in order], bins=5)
    assert [row.n for row in found.rows] == [6] * 5
    again = calibration(
        [i / 30 for i in range(30)], [float(i % 2) for i in range(30)], bins=5
    )
    assert found.ece == pytest.approx(again.ece)


@pytest.mark.parametrize(
    ("confidence", "correct", "message"),
    [
        ([], [], "0 confidences"),
        ([0.5], [1, 0], "1 confidences with 2 outcomes"),
        ([1.5], [1], "must be probabilities"),
        ([float("nan")], [1], "must be probabilities"),
        ([0.5], [0.5], "outcomes must be 0 or 1"),
    ],
)
def test_what_is_no_prediction_is_refused(
    confidence: list[float], correct: list[float], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        calibration(confidence, correct)


def test_a_table_has_at_least_one_bin() -> None:
    with pytest.raises(ValueError, match="bins must be >= 1"):
        calibration([0.5], [1], bins=0)
