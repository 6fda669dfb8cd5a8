"""What one round finds of one contestant at one shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from prefillshare.bench.transfer.settings import Load, Shape
from prefillshare.config import Config


class Found(Config):
    """Rates in gigabits (1e9) a second, delays in microseconds; None: not measured.

    `cpu_seconds_per_gb` is of both processes together, by 1e9 bytes of payload;
    `receiver_extra_bytes` is what the receiving process had resident at most during the
    transfer, beyond what it had before, its buffer included.
    """

    shape: Shape
    direction: Literal["write", "read"] = "write"
    load: Load | None = None
    gbps: float | None = None
    p50_us: float | None = None
    p99_us: float | None = None
    cpu_seconds_per_gb: float | None = None
    receiver_extra_bytes: int | None = None
    verified: bool | None = None


def percentiles(seconds: Sequence[float]) -> tuple[float, float]:
    """The median and the 99th percentile, in microseconds."""
    ordered = sorted(seconds)
    middle, late = len(ordered) // 2, int(len(ordered) * 0.99)
    return ordered[middle] * 1e6, ordered[late] * 1e6
