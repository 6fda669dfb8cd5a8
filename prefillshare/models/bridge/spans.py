"""Which tokens of one tokenization say what a token of another says.

Both are of the same text. A target token gets the mean of the source tokens that it
shares characters with, weighted by how many; several target tokens within one source
token all get that one.

Shapes: S source tokens, T target tokens, W source tokens to a target token at most.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import torch

from prefillshare.errors import DataError

# Characters [start, end) of the text; an empty span is a token that no text stands for.
Span = tuple[int, int]
# The source tokens of one target token, and their weights.
Shares = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Alignment:
    """Rows of source tokens and their weights, which sum to 1; both `[T, W]`.

    Rows with fewer than W tokens are filled up with token 0 at weight 0.
    """

    tokens: torch.Tensor
    weights: torch.Tensor

    @classmethod
    def of(cls, rows: Sequence[Shares]) -> Self:
        """Of what each target token gets."""
        width = max((len(row) for row in rows), default=1)
        filled = [[*row, *[(0, 0.0)] * (width - len(row))] for row in rows]
        return cls(
            torch.tensor([[i for i, _ in row] for row in filled], dtype=torch.long),
            torch.tensor([[weight for _, weight in row] for row in filled]),
        )

    def apply(self, states: torch.Tensor) -> torch.Tensor:
        """Source states `[..., S, D]` as target states `[..., T, D]`."""
        gathered = states[..., self.tokens, :]
        weights = self.weights.to(device=states.device, dtype=states.dtype)
        return (gathered * weights[..., None]).sum(-2)

    @property
    def is_identity(self) -> bool:
        """Whether every target token is the source token of its own number."""
        count = self.tokens.shape[0]
        return self.tokens.shape[1] == 1 and torch.equal(
            self.tokens[:, 0], torch.arange(count)
        )


def shares(source: Sequence[Span], target: Sequence[Span]) -> tuple[Shares, ...]:
    """What each target token gets, given the characters of each token of both.

    A target token without characters of its own, or whose characters no source token
    has (they differ in what they leave out), gets the last source token before it, or
    the first.

    Raises:
        DataError: there are no source tokens, or spans are not in order.
    """
    if not source:
        raise DataError("there are no source tokens to align with; give a longer text")
    for name, spans in (("source", source), ("target", target)):
        if any(a[0] > b[0] or a[1] > b[1] for a, b in pairwise(spans)):
            raise DataError(
                f"the {name} tokens' spans are not in the text's order; take them from "
                "a fast tokenizer's offsets"
            )
    ends = [end for _, end in source]
    return tuple(_shares(source, ends, span) for span in target)


def _shares(source: Sequence[Span], ends: Sequence[int], span: Span) -> Shares:
    """The source tokens that share characters with `span`, weighted."""
    start, end = span
    # The first source token that ends behind where the target token starts.
    first = bisect_right(ends, start)
    shared = []
    for i in range(first, len(source)):
        if source[i][0] >= end:
            break
        overlap = min(end, source[i][1]) - max(start, source[i][0])
        if overlap > 0:
            shared.append((i, overlap))
    if not shared:
        return ((max(0, first - 1), 1.0),)
    total = sum(overlap for _, overlap in shared)
    return tuple((i, overlap / total) for i, overlap in shared)
