"""Score a scheme and a decoder on test units: NLL and greedy exact match."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from prefillshare.evals.statistics import Interval, bootstrap
from prefillshare.training.data import Group
from prefillshare.training.packing import pack
from prefillshare.training.schemes.base import Scheme, score


@dataclass(frozen=True)
class Scores:
    """Per example: NLL (nats per response token), exact match, and where it stands.

    `distance` in tokens from fact to boundary, `depth` of the hand-off, `context` the
    unit's number.
    """

    nll: tuple[float, ...]
    exact: tuple[float, ...]
    distance: tuple[int, ...]
    depth: tuple[int, ...]
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
            hits = self._hits(self.distance, range(low, high))
            if hits:
                mean = sum(hits) / len(hits)
                rows.append(
                    {"from": low, "to": high, "exact_match": mean, "n": len(hits)}
                )
        return rows

    def exact_by_depth(self) -> list[dict[str, Any]]:
        """Exact match by hand-off depth."""
        rows = []
        for depth in sorted(set(self.depth)):
            hits = self._hits(self.depth, (depth,))
            mean = sum(hits) / len(hits)
            rows.append({"depth": depth, "exact_match": mean, "n": len(hits)})
        return rows

    def _hits(self, values: Sequence[int], among: Sequence[int]) -> list[float]:
        pairs = zip(self.exact, values, strict=True)
        return [exact for exact, value in pairs if value in among]


@torch.no_grad()
def evaluate(
    scheme: Scheme, decoder: Any, groups: Sequence[Group], *, units_per_pass: int = 1
) -> Scores:
    """Score every example of `groups` with `decoder` on what `scheme` prefills."""
    nll: list[float] = []
    exact: list[float] = []
    for first in range(0, len(groups), units_per_pass):
        some = groups[first : first + units_per_pass]
        scores = score(scheme, decoder, pack([e for group in some for e in group]))
        nll += scores.nll().tolist()
        exact += scores.greedy_correct().float().tolist()
    members = [(e, i) for i, group in enumerate(groups) for e in group]
    return Scores(
        tuple(nll),
        tuple(exact),
        tuple(e.distance for e, _ in members),
        tuple(e.depth for e, _ in members),
        tuple(i for _, i in members),
    )


def _pair(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high
