"""The tokens for which a bridge makes keys and values.

Shapes: T tokens, V vocabulary, E numbers in an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch.nn.functional import embedding

from prefillshare.models.bridge.spans import Alignment

# So that an embedding of nothing but zeros stays that.
_TINY = 1e-12


@dataclass(frozen=True)
class TargetTokens:
    """Tokens of one prompt, or of several that have their beginnings in common.

    Attributes:
        ids: in the target's tokenizer `[T]`.
        positions: in their prompts `[T]`.
        before: which of them stands before each, -1 for a prompt's first `[T]`.
        alignment: to the source's tokens; None if both have the same.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    before: torch.Tensor
    alignment: Alignment | None = None

    @classmethod
    def prompt(
        cls,
        ids: Sequence[int],
        alignment: Alignment | None = None,
        device: torch.device | None = None,
    ) -> Self:
        """A single prompt's, from its first token on."""
        at = torch.arange(len(ids), device=device)
        return cls(torch.tensor(ids, device=device), at, at - 1, alignment)

    def embedded(self, table: torch.Tensor, count: int) -> torch.Tensor:
        """The embeddings of each token and of the `count - 1` before it `[T, count E]`.

        All have a mean square of 1, as models make of them before they read them;
        before a prompt's first token stand zeros.

        Args:
            table: of embeddings `[V, E]`.
        """
        rows = embedding(self.ids, table)
        rows = rows * (rows.square().mean(-1, keepdim=True) + _TINY).rsqrt()
        at, seen = torch.arange(len(self.ids), device=rows.device), []
        for _ in range(count):
            seen.append(rows[at] * (at >= 0)[:, None])
            at = torch.where(at >= 0, self.before[at], -1)
        return torch.cat(seen, 1)
