"""Calibration error over equal-mass bins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefillshare.errors import DataError
from prefillshare.evals.calibration import calibration_error

PREDICTIONS = st.lists(
    st.tuples(
        st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0])), st.integers(0, 1)
    ),
    min_size=1,
    max_size=60,
)


def test_an_error_worked_by_hand() -> None:
    """Two bins: 0.2 and 0.4 with half right, 0.6 and 0.9 with half right."""
    found = calibration_error([0.9, 0.2, 0.6, 0.4], [1, 0, 0, 1], bins=2)
    assert found == pytest.approx(0.5 * abs(0.5 - 0.3) + 0.5 * abs(0.5 - 0.75))


def test_bins_hold_as_many_predictions_each_however_confident_they_are() -> None:
    """Of equal width, the first would hold one prediction and the second three."""
    confidence, correct = [0.1, 0.8, 0.9, 1.0], [1.0, 1.0, 0.0, 1.0]
    found = calibration_error(confidence, correct, bins=2)
    assert found == pytest.approx(0.5 * abs(1.0 - 0.45) + 0.5 * abs(0.5 - 0.95))


def test_equal_confidences_are_never_split() -> None:
    """Split, half of them would seem to be always right and half never."""
    assert calibration_error([0.5] * 4, [1, 1, 0, 0], bins=2) == 0
    # One bin holds all but the last.
    assert calibration_error([0.5, 0.5, 0.5, 0.9], [1, 1, 0, 1], bins=2) == (
        pytest.approx(0.75 * abs(2 / 3 - 0.5) + 0.25 * 0.1)
    )


def test_a_calibrated_model_has_little_error_and_an_overconfident_one_its_excess() -> (
    None
):
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.3, 0.7, 5000)
    correct = (rng.random(5000) < confidence).astype(float).tolist()
    # A bin of 500 has a standard error of 0.022.
    assert calibration_error(confidence.tolist(), correct) < 0.03
    over = calibration_error((confidence + 0.3).tolist(), correct)
    assert over == pytest.approx(0.3, abs=0.03)


@given(PREDICTIONS, st.integers(1, 12))
def test_an_error_is_at_least_that_of_one_bin_and_at_most_1(
    predictions: list[tuple[float, int]], bins: int
) -> None:
    confidence = [c for c, _ in predictions]
    correct = [float(y) for _, y in predictions]
    one = abs(float(np.mean(correct)) - float(np.mean(confidence)))
    assert calibration_error(confidence, correct, bins=1) == pytest.approx(one)
    found = calibration_error(confidence, correct, bins=bins)
    assert one - 1e-12 <= found <= 1 + 1e-12


@given(st.permutations(range(30)))
def test_the_order_of_predictions_makes_no_difference(order: list[int]) -> None:
    found = calibration_error(
        [i / 30 for i in order], [float(i % 2) for i in order], bins=5
    )
    # Six a bin, three of them right.
    means = [(6 * b + 2.5) / 30 for b in range(5)]
    assert found == pytest.approx(np.mean([abs(0.5 - mean) for mean in means]))


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
        calibration_error(confidence, correct)


def test_there_is_at_least_one_bin() -> None:
    with pytest.raises(ValueError, match="bins must be >= 1"):
        calibration_error([0.5], [1], bins=0)
