"""Score a scheme and a decoder on test units: NLL and greedy exact match."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from prefillshare.evals.calibration import calibration_error
from prefillshare.evals.statistics import Interval, mean_interval
from prefillshare.training.data import Example, Group
from prefillshare.training.packing import pack
from prefillshare.training.schemes.base import Scheme, score

# Where buckets of tokens from fact to boundary begin and end. From 1: a distance of 0
# means that no single place decides.
DISTANCES = (1, 128, 256, 512, 1024, 2048, 4096)


@dataclass(frozen=True)
class Scores:
    """Per example: NLL (nats per response token), exact match, and where it stands.

    Attributes:
        distance: in tokens from fact to boundary.
        depth: of the hand-off.
        context: the unit's number.
        tokens: of the response; empty in scores that were kept without.
        fields: by name of a JSON answer's field, whether all tokens that spell its
            value are the arg max; None for the examples without such a field.
        calibration_error: the expected calibration error of the arg max tokens' own
            probabilities (`evals.calibration`).
    """

    nll: tuple[float, ...]
    exact: tuple[float, ...]
    distance: tuple[int, ...]
    depth: tuple[int, ...]
    context: tuple[int, ...]
    tokens: tuple[int, ...] = ()
    fields: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    calibration_error: float | None = None

    def summary(self) -> dict[str, Any]:
        """`nll`, `exact_match`, `ci` (95 %, of each) and `n`.

        With JSON answers also `fields`, the accuracy of each; `calibration_error`
        where it is known.
        """
        nll, exact = (mean_interval(x, self.context) for x in (self.nll, self.exact))
        summary = {
            "nll": nll.mean,
            "exact_match": exact.mean,
            "ci": {"nll": _pair(nll), "exact_match": _pair(exact)},
            "n": len(self.nll),
        }
        if self.fields:
            summary["fields"] = {
                name: _mean([x for x in right if x is not None])
                for name, right in self.fields.items()
            }
        if self.calibration_error is not None:
            summary["calibration_error"] = self.calibration_error
        return summary

    def exact_by_distance(self, edges: Sequence[int]) -> list[dict[str, Any]]:
        """Exact match in buckets `[edges[i], edges[i + 1])` of tokens."""
        rows = []
        for low, high in zip(edges[:-1], edges[1:], strict=True):
            hits = self._hits(self.distance, range(low, high))
            if hits:
                place = {"from": low, "to": high}
                rows.append({**place, "exact_match": _mean(hits), "n": len(hits)})
        return rows

    def exact_by_depth(self) -> list[dict[str, Any]]:
        """Exact match by hand-off depth."""
        rows = []
        for depth in sorted(set(self.depth)):
            hits = self._hits(self.depth, (depth,))
            rows.append({"depth": depth, "exact_match": _mean(hits), "n": len(hits)})
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
    right: list[bool] = []
    confidence: list[float] = []
    exact: list[float] = []
    for first in range(0, len(groups), units_per_pass):
        some = groups[first : first + units_per_pass]
        scores = score(scheme, decoder, pack([e for group in some for e in group]))
        nll += scores.nll().tolist()
        exact += scores.greedy_correct().float().tolist()
        right += scores.correct().tolist()
        confidence += scores.confidence().tolist()
    members = [(e, i) for i, group in enumerate(groups) for e in group]
    examples = [e for e, _ in members]
    return Scores(
        tuple(nll),
        tuple(exact),
        tuple(e.distance for e in examples),
        tuple(e.depth for e in examples),
        tuple(i for _, i in members),
        tuple(len(e.response) for e in examples),
        _right_fields(examples, right),
        calibration_error(confidence, right),
    )


def _right_fields(
    examples: Sequence[Example], right: Sequence[bool]
) -> dict[str, tuple[float | None, ...]]:
    """By field, whether each example has it right; `right` is of all their tokens."""
    found: list[dict[str, bool]] = []
    at = 0
    for example in examples:
        marks: dict[str, bool] = {}
        for name, start, stop in example.fields:
            # A name that occurs twice is right if both values are.
            marks[name] = marks.get(name, True) and all(right[at + start : at + stop])
        found.append(marks)
        at += len(example.response)
    names = dict.fromkeys(name for marks in found for name in marks)
    return {
        name: tuple(float(m[name]) if name in m else None for m in found)
        for name in names
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _pair(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high
