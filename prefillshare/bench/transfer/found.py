"""What one round finds of one contestant at one shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from prefillshare.bench.transfer.specs import Measure, Shape
from prefillshare.config import Config


class Found(Config):
    """Rates in gigabits (1e9) a second, delays in microseconds; None: not measured.

    `case` tells figures of one shape apart: what ran beside it, say, or which link.
    `cpu_seconds_per_gb` is of both processes together, by 1e9 bytes of payload.
    `extra_bytes` is what the receiving process, or an agent, had resident at most
    during the transfer, beyond what it had before, its buffer included. `limits` are
    set values that figures are held against, `stages_us` parts of a delay, and `direct`
    says whether the page cache was passed by.
    """

    shape: Shape
    direction: Literal["write", "read"] = "write"
    case: str | None = None
    gbps: float | None = None
    p50_us: float | None = None
    p99_us: float | None = None
    cpu_seconds_per_gb: float | None = None
    extra_bytes: int | None = None
    verified: bool | None = None
    limits: dict[Measure, float] = {}
    stages_us: dict[str, float] = {}
    direct: bool | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is a figure of: comparable with the same of others."""
        return self.shape, self.direction, self.case or ""


def percentiles(seconds: Sequence[float]) -> tuple[float, float]:
    """The median and the 99th percentile, in microseconds."""
    ordered = sorted(seconds)
    middle, late = len(ordered) // 2, int(len(ordered) * 0.99)
    return ordered[middle] * 1e6, ordered[late] * 1e6
