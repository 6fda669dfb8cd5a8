"""Bridges with random weights between tiny models, for several suites."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from prefillshare.kv.layout import KVLayout
from prefillshare.models.bridge.bridge import Bridge
from prefillshare.models.bridge.rotary import rotaries_of
from prefillshare.models.bridge.spans import Alignment, Span, shares
from prefillshare.models.bridge.spec import BridgeSpec, CacheShape
from prefillshare.models.loading import embeddings_of


def align(source: Sequence[Span], target: Sequence[Span]) -> Alignment:
    """Two tokenizations of one text, by the characters of their tokens."""
    return Alignment.of(shares(source, target))


def identity(tokens: int) -> Alignment:
    """Every token is its own."""
    spans = [(i, i + 1) for i in range(tokens)]
    return align(spans, spans)


def random_bridge(
    source: PreTrainedModel,
    target: PreTrainedModel,
    layers: tuple[tuple[int, ...], ...],
    **changes: Any,
) -> Bridge:
    """From the source layers `layers`, and two of the target's embeddings, in fp64."""
    here, there = (
        CacheShape.of(KVLayout.from_config(model.config)) for model in (source, target)
    )
    table = embeddings_of(target)
    fields: dict[str, Any] = {"kind": "linear", "embeddings": 2, **changes}
    if fields["embeddings"]:
        fields["embedding_dim"] = table.shape[1]
    spec = BridgeSpec(here, there, layers, **fields)
    bridge = Bridge(spec, rotaries_of(source), rotaries_of(target)).double()
    bridge.take_embeddings(table)
    generator = torch.Generator().manual_seed(4)
    for parameter in bridge.parameters():
        parameter.data = 0.4 * torch.randn(
            parameter.shape, dtype=torch.float64, generator=generator
        )
    return bridge
