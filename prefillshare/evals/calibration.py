"""Does a model's confidence mean what it says? The calibration error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from prefillshare.errors import DataError

Array = npt.NDArray[np.float64]


def calibration_error(
    confidence: Sequence[float], correct: Sequence[float], *, bins: int = 10
) -> float:
    """The expected calibration error over equal-mass bins, 0 (calibrated) to 1.

    `ece = sum_b n_b / n * |accuracy_b - confidence_b|` (Naeini, Cooper & Hauskrecht
    2015) with as many predictions in each bin (Nguyen & O'Connor 2015): with bins of
    equal width nearly all predictions of a confident model fall into the last. Equal
    confidences are never split, so there may be fewer bins. It is biased upwards by
    about the noise of a bin's accuracy: compare it only between systems with as many
    predictions and bins.

    Args:
        confidence: the probability that the model gave its prediction, 0 to 1: of the
            next token `TokenScores.confidence`, of a whole generated answer
            `exp(TokenScores.total)`.
        correct: 1 where the prediction was right, 0 where not.

    Raises:
        DataError: no predictions, unequal lengths, or values out of range.
        ValueError: fewer than one bin.
    """
    if bins < 1:
        raise ValueError(f"bins must be >= 1, got {bins}")
    c, y = _checked(confidence, correct)
    order = np.argsort(c, kind="stable")
    c, y = c[order], y[order]
    cuts = _equal_mass_cuts(c, bins)
    gaps = [
        len(part) * abs(right.mean() - part.mean())
        for part, right in zip(np.split(c, cuts), np.split(y, cuts), strict=True)
    ]
    return float(sum(gaps) / len(c))


def _equal_mass_cuts(ordered: Array, bins: int) -> list[int]:
    """Where to cut `ordered` (ascending) into bins, each moved past equal values."""
    wanted = np.linspace(0, len(ordered), bins + 1)[1:-1].round().astype(int)
    inside = wanted[(wanted > 0) & (wanted < len(ordered))]
    moved = np.searchsorted(ordered, ordered[inside - 1], side="right")
    return sorted({int(cut) for cut in moved if cut < len(ordered)})


def _checked(
    confidence: Sequence[float], correct: Sequence[float]
) -> tuple[Array, Array]:
    c, y = np.asarray(confidence, dtype=float), np.asarray(correct, dtype=float)
    if len(c) != len(y) or len(c) == 0:
        raise DataError(
            f"{len(c)} confidences with {len(y)} outcomes; give one of each for every "
            "prediction"
        )
    if not ((c >= 0) & (c <= 1)).all():
        raise DataError(
            f"confidences must be probabilities, got {c.min()} to {c.max()}; give "
            "exp of log-probabilities"
        )
    if not np.isin(y, (0, 1)).all():
        raise DataError("outcomes must be 0 or 1; give each prediction's correctness")
    return c, y
