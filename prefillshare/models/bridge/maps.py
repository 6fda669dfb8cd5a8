"""What maps the keys or values of one token.

Shapes: N tokens, F features, O outputs, R rank, E width of the gate.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from prefillshare.models.bridge.ridge import LinearMap

MapKind = Literal["linear", "gated"]


class LinearLayer(nn.Module):
    """`x @ down @ up + bias`, of rank R; with no rank, `x @ down + bias`."""

    def __init__(self, features: int, outputs: int, rank: int | None = None) -> None:
        super().__init__()
        full = rank is None or rank >= min(features, outputs)
        width = outputs if full or rank is None else rank
        self.down = nn.Parameter(torch.zeros(features, width))
        self.up = None if full else nn.Parameter(torch.zeros(width, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    @torch.no_grad()
    def start_from(self, fitted: LinearMap) -> None:
        """Take over a fitted map, whose rank must be no higher."""
        self.bias.copy_(fitted.bias)
        if self.up is None:
            self.down.copy_(fitted.weight)
            return
        left, size, right = torch.linalg.svd(fitted.weight, full_matrices=False)
        rank = self.up.shape[0]
        # Both factors get half of each size, so that neither learns far faster.
        root = size[:rank].sqrt()
        self.down.copy_(left[:, :rank] * root)
        self.up.copy_(root[:, None] * right[:rank])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[N, F]` to `[N, O]`."""
        mapped = x @ self.down
        return (mapped if self.up is None else mapped @ self.up) + self.bias


class GatedLayer(nn.Module):
    """A linear map, and beside it a gated one that starts as nothing.

    `linear(x) + (silu(x @ gate) * (x @ value)) @ out` (Shazeer, arXiv 2002.05202).
    """

    def __init__(
        self, features: int, outputs: int, rank: int | None, width: int
    ) -> None:
        super().__init__()
        self.linear = LinearLayer(features, outputs, rank)
        self.gate = nn.Parameter(torch.randn(features, width) / features**0.5)
        self.value = nn.Parameter(torch.randn(features, width) / features**0.5)
        self.out = nn.Parameter(torch.zeros(width, outputs))

    def start_from(self, fitted: LinearMap) -> None:
        """Take over a fitted linear map."""
        self.linear.start_from(fitted)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[N, F]` to `[N, O]`."""
        gated = functional.silu(x @ self.gate) * (x @ self.value)
        mapped: torch.Tensor = self.linear(x) + gated @ self.out
        return mapped


def make_map(
    kind: MapKind, features: int, outputs: int, rank: int | None, width: int
) -> LinearLayer | GatedLayer:
    """A map that gives zero until it is fitted."""
    if kind == "linear":
        return LinearLayer(features, outputs, rank)
    return GatedLayer(features, outputs, rank, width)
