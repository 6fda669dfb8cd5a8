"""Score a prefill and decoder pair on case files: NLL and greedy exact match."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from prefillshare.evals.statistics import Interval, bootstrap
from prefillshare.training.data import ContextGroup
from prefillshare.training.objective import score_group


@dataclass(frozen=True)
class Scores:
    """Per example: NLL (nats per response token), exact match, distance, context."""

    nll: tuple[float, ...]
    exact: tuple[float, ...]
    distance: tuple[int, ...]
    context: tuple[int, ...]

    def summary(self) -> dict[str, Any]:
        """`nll`, `exact_match`, `ci` (95 %, of each) and `n`."""
        nll, exact = (bootstrap(x, self.context) for x in (self.nll, self.exact))
        return {
            "nll": nll.mean,
            "exact_match": exact.mean,
            "ci": {"nll": _pair(nll), "exact_match": _pair(exact)},
            "n": len(self.nll),
        }

    def exact_by_distance(self, edges: Sequence[int]) -> list[dict[str, Any]]:
        """Exact match in buckets `[edges[i], edges[i + 1])` of tokens."""
        rows = []
        for low, high in zip(edges[:-1], edges[1:], strict=True):
            hits = [
                x
                for x, d in zip(self.exact, self.distance, strict=True)
                if low <= d < high
            ]
            if hits:
                mean = sum(hits) / len(hits)
                rows.append(
                    {"from": low, "to": high, "exact_match": mean, "n": len(hits)}
                )
        return rows


@torch.no_grad()
def evaluate(prefill: Any, decoder: Any, groups: Sequence[ContextGroup]) -> Scores:
    """Score every example of `groups` with `decoder` on the cache of `prefill`."""
    nll: list[float] = []
    exact: list[float] = []
    for group in groups:
        scores = score_group(prefill, decoder, group)
        nll += scores.nll().tolist()
        exact += scores.greedy_correct().float().tolist()
    members = [(e, i) for i, group in enumerate(groups) for e in group.examples]
    return Scores(
        tuple(nll),
        tuple(exact),
        tuple(e.distance for e, _ in members),
        tuple(i for _, i in members),
    )


def _pair(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high
