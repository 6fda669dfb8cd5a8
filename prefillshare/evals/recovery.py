"""How much of what own prefill gains over no context a bridged cache recovers.

Shapes: S seeds, N examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prefillshare.evals.statistics import Interval, crossed_interval

Scores = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Recovery:
    """Means over seeds and examples, and the share recovered with its 95 % interval.

    `share` is None where own prefill gains nothing that could be recovered: its gain
    is not above zero by the lower end of its own interval.
    """

    own: float
    bridged: float
    floor: float
    share: Interval | None


def recovery(
    own: Scores,
    bridged: Scores,
    floor: Scores,
    clusters: Sequence[int] | None = None,
    *,
    losses: bool,
) -> Recovery:
    """`(bridged - floor) / (own - floor)`, of scores or of losses, paired by example.

    The interval is that of the ratio of two means, linearised at the estimate (delta
    method), over seeds and clusters as `statistics.crossed_interval` has it.

    Args:
        own, bridged, floor: `[seed][example]`, the same examples in the same order.
        clusters: which examples belong together.
        losses: whether less is better.

    Raises:
        DataError: fewer than two clusters, or rows of different lengths.
    """
    a, b, c = (np.asarray(scores, dtype=float) for scores in (own, bridged, floor))
    means = (float(a.mean()), float(b.mean()), float(c.mean()))
    gain, got = a - c, b - c
    whole = crossed_interval(gain.tolist(), clusters)
    certain = whole.high < 0 if losses else whole.low > 0
    if not certain:
        return Recovery(*means, None)
    share = float(got.mean() / gain.mean())
    linear = share + (got - share * gain) / gain.mean()
    return Recovery(*means, crossed_interval(linear.tolist(), clusters))
