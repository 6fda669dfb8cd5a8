"""How much of a prompt's content a bridge carries, as attention sees it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch

from prefillshare.models.bridge.bridge import Bridge, Layers
from prefillshare.models.bridge.fit import Pair
from prefillshare.models.bridge.health import attention_cosine
from prefillshare.models.bridge.spans import identity
from prefillshare.models.bridge.storage import load_bridge
from prefillshare.training.bridges.continuation import by_stretch, continuation
from prefillshare.training.bridges.ends import BridgeSettings, Ends, Say


def inspect(settings: BridgeSettings, say: Say, prompts: int = 8) -> dict[str, Any]:
    """What a saved bridge makes of test prompts, for the decoder's model as it comes.

    Returns `cosine` (`Health`), by layer, by query head, and over all; what the same
    cache is worth with its tokens shuffled; and `continuation`, losses by distance from
    a boundary in the prompts' middle, beside own prefill and no context.

    Raises:
        IdentityError: the bridge joins other models.
    """
    ends = Ends.open(settings)
    bridge = load_bridge(settings.output, ends.ids)
    health = health_of(ends, settings, bridge, prompts)
    say(health.sentence)
    texts = [
        continuation(ends.target, bridge, ends.caches(example), example.prefill_ids)
        for example in islice(ends.prompts(settings.tasks, "test"), prompts)
    ]
    return {
        "cosine": health.figures(),
        "prompts": health.prompts,
        "continuation": list(by_stretch(texts)),
    }


@dataclass(frozen=True)
class Health:
    """Attention-output cosines of a bridged cache.

    Attributes:
        heads: the mean by layer and query head `[L, Q]`.
        shuffled: over all heads, with the cache's tokens in another order: what a
            cache is worth that carries no content.
        prompts: how many were read.
    """

    heads: torch.Tensor
    shuffled: float
    prompts: int

    @property
    def all(self) -> float:
        """The mean over all heads."""
        return float(self.heads.mean())

    @property
    def carried(self) -> float:
        """The share of what the shuffled cache lacks that this one has."""
        return (self.all - self.shuffled) / (1 - self.shuffled)

    @property
    def sentence(self) -> str:
        """For a person."""
        return (
            f"attention-output cosine {self.all:.3f} over {self.prompts} prompts, "
            f"{self.shuffled:.3f} with the tokens shuffled: the bridge carries "
            f"{self.carried:.0%} of the content"
        )

    def figures(self) -> dict[str, Any]:
        """As results have it."""
        return {
            "layers": self.heads.mean(1).tolist(),
            "heads": self.heads.tolist(),
            "all": self.all,
            "shuffled": self.shuffled,
            "carried": self.carried,
        }


def health_of(
    ends: Ends, settings: BridgeSettings, bridge: Bridge, prompts: int
) -> Health:
    """Of a bridge between `ends`, on the first `prompts` test prompts."""
    generator = torch.Generator().manual_seed(0)
    kept, lost = [], []
    examples = islice(ends.prompts(settings.tasks, "test"), prompts)
    for example in examples:
        pair = ends.caches(example)
        ids = (*example.prompt.token_ids, *example.response)
        kept.append(attention_cosine(ends.target, ids, bridged(bridge, pair)))
        alignment = pair.alignment or identity(pair.source[0][0].shape[2])
        other = replace(pair, alignment=alignment.shuffled(generator))
        lost.append(attention_cosine(ends.target, ids, bridged(bridge, other)))
    heads = torch.stack(kept).mean(0)
    return Health(heads, float(torch.stack(lost).mean()), len(kept))


@torch.no_grad()
def bridged(bridge: Bridge, pair: Pair) -> Layers:
    """What `bridge` makes of the source's cache, in the target's tokens."""
    here, there = (torch.arange(x[0][0].shape[2]) for x in (pair.source, pair.target))
    layers: Layers = bridge(pair.source, here, pair.alignment, there)
    return layers
