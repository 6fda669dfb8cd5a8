"""How well a decoder's model goes on with a text whose beginning it reads bridged.

The model is as it comes, not trained on the bridge: what is lost is the bridge's, and
by how far a token stands behind the boundary one sees whether that heals or spreads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from prefillshare.kv.cache import KVCache
from prefillshare.models.bridge.bridge import Bridge, Layers
from prefillshare.models.bridge.fit import Pair
from prefillshare.models.bridge.spans import Alignment
from prefillshare.models.bridge.target import TargetTokens

# Tokens behind the boundary, `[first, last]`; the last stretch has no end.
STRETCHES = ((1, 16), (17, 64), (65, 256), (257, None))
NEAR = 64
SIDES = ("own_prefill", "bridged", "no_context")


@dataclass(frozen=True)
class Continuation:
    """The losses of one text's second half, in nats, `[T]` each."""

    own_prefill: torch.Tensor
    bridged: torch.Tensor
    no_context: torch.Tensor


@torch.no_grad()
def continuation(
    model: Any, bridge: Bridge, pair: Pair, token_ids: Sequence[int]
) -> Continuation:
    """Cut a text in its middle and read the first half from each cache.

    Args:
        model: the decoder's causal language model.
        pair: both models' caches of the whole text.
        token_ids: the text, in the decoder's tokens.
    """
    cut = len(token_ids) // 2
    own = KVCache(tuple((k[0], v[0]) for k, v in pair.target)).slice(0, cut)
    alignment = _first(pair.tokens.alignment, cut)
    read = cut if alignment is None else int(alignment.tokens.max()) + 1
    begun: Layers = tuple((k[:, :, :read], v[:, :, :read]) for k, v in pair.source)
    tokens = TargetTokens.prompt(token_ids[:cut], alignment)
    layers = bridge(begun, torch.arange(read), tokens)
    made = KVCache(tuple((k[0], v[0]) for k, v in layers))
    # The token before the cut is read again by all: it predicts the first behind it.
    rest = torch.tensor([list(token_ids[cut - 1 :])])
    # No context still has the first token, without which no model is itself.
    caches = (own.slice(0, cut - 1), made.slice(0, cut - 1), own.slice(0, 1))
    return Continuation(*(_losses(model, cache, rest) for cache in caches))


def recovered(texts: Sequence[Continuation]) -> float | None:
    """`(no context - bridged) / (no context - own prefill)` near the boundary.

    Over the first `NEAR` tokens behind it: farther on, a text tells of itself. None
    where own prefill gains nothing.
    """
    own, made, bare = (
        float(torch.cat([getattr(text, side)[:NEAR] for text in texts]).mean())
        for side in SIDES
    )
    return (bare - made) / (bare - own) if own < bare else None


def by_stretch(texts: Sequence[Continuation]) -> Iterator[dict[str, Any]]:
    """Mean losses of all texts by distance from the boundary, in tokens."""
    for first, last in STRETCHES:
        parts = {
            side: torch.cat([getattr(text, side)[first - 1 : last] for text in texts])
            for side in SIDES
        }
        count = len(parts["bridged"])
        if count:
            means = {side: float(losses.mean()) for side, losses in parts.items()}
            yield {"from": first, "to": last, "tokens": count, **means}


def _first(alignment: Alignment | None, tokens: int) -> Alignment | None:
    if alignment is None:
        return None
    return Alignment(alignment.tokens[:tokens], alignment.weights[:tokens])


def _losses(model: Any, cache: KVCache, ids: torch.Tensor) -> torch.Tensor:
    past = cache.to_transformers()
    logits = model(input_ids=ids, past_key_values=past, use_cache=True).logits[0, :-1]
    return cross_entropy(logits.float(), ids[0, 1:], reduction="none")
