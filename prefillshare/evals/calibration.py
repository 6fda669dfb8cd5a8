"""Does a model's confidence mean what it says? Calibration error and Brier score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prefillshare.errors import DataError

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ReliabilityRow:
    """One bin of a reliability table: its confidences, and how often it was right."""

    low: float
    high: float
    confidence: float
    accuracy: float
    n: int


@dataclass(frozen=True)
class Calibration:
    """How far confidence and accuracy lie apart.

    Attributes:
        ece: the expected calibration error, 0 (calibrated) to 1. It is biased upwards
            by about the noise of a bin's accuracy: compare it only between systems
            with the same `n` and bins.
        brier: the mean squared distance of confidence from outcome, 0 to 1.
    """

    ece: float
    brier: float
    rows: tuple[ReliabilityRow, ...]
    n: int


def calibration(
    confidence: Sequence[float], correct: Sequence[float], *, bins: int = 10
) -> Calibration:
    """Expected calibration error over equal-mass bins, and the Brier score.

    `ece = sum_b n_b / n * |accuracy_b - confidence_b|` (Naeini, Cooper & Hauskrecht
    2015) with as many predictions in each bin (Nguyen & O'Connor 2015): with bins of
    equal width nearly all predictions of a confident model fall into the last. Equal
    confidences are never split, so there may be fewer bins. Brier (1950) needs none.

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
    rows = tuple(
        _row(part, right)
        for part, right in zip(np.split(c, cuts), np.split(y, cuts), strict=True)
    )
    gaps = [row.n * abs(row.accuracy - row.confidence) for row in rows]
    return Calibration(sum(gaps) / len(c), float(np.square(c - y).mean()), rows, len(c))


def _equal_mass_cuts(ordered: Array, bins: int) -> list[int]:
    """Where to cut `ordered` (ascending) into bins, each moved past equal values."""
    wanted = np.linspace(0, len(ordered), bins + 1)[1:-1].round().astype(int)
    inside = wanted[(wanted > 0) & (wanted < len(ordered))]
    moved = np.searchsorted(ordered, ordered[inside - 1], side="right")
    return sorted({int(cut) for cut in moved if cut < len(ordered)})


def _row(confidence: Array, correct: Array) -> ReliabilityRow:
    return ReliabilityRow(
        float(confidence[0]),
        float(confidence[-1]),
        float(confidence.mean()),
        float(correct.mean()),
        len(confidence),
    )


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
