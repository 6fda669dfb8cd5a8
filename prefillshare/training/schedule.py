"""What every step reads, the same on every process without asking, and its rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from prefillshare.training.data import Group, response_tokens


@dataclass(frozen=True)
class Schedule:
    """Steps of `units` units for each of `world` processes.

    Every epoch has an order of its own. Learners with as many units each see units of
    the same index together, so units over one context meet in one pass.
    """

    groups: Sequence[Group]
    units: int
    world: int
    seed: int

    def of(self, step: int, rank: int) -> list[Group]:
        """What process `rank` reads in `step`."""
        first = (step * self.world + rank) * self.units
        return [self._at(first + i) for i in range(self.units)]

    def tokens(self, step: int) -> int:
        """Response tokens of a step over all processes."""
        ranks = range(self.world)
        return sum(response_tokens(self.of(step, rank)) for rank in ranks)

    def _at(self, index: int) -> Group:
        epoch, at = divmod(index, len(self.groups))
        return self.groups[_order(len(self.groups), self.seed, epoch)[at]]


@lru_cache(maxsize=8)
def _order(count: int, seed: int, epoch: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order: list[int] = torch.randperm(count, generator=generator).tolist()
    return order


def learning_rate_factor(step: int, *, warmup: int, steps: int) -> float:
    """Linear warm-up, then a cosine to 5 % of the peak."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return max(0.05, 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress))))
