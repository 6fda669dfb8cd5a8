"""What a bridge makes of test prompts, for the decoder's model as it comes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from prefillshare.models.bridge.bridge import Bridge, Layers
from prefillshare.models.bridge.fit import Pair
from prefillshare.models.bridge.health import attention_cosine
from prefillshare.models.bridge.storage import load_bridge
from prefillshare.training.bridges.continuation import (
    Continuation,
    by_stretch,
    continuation,
    recovered,
)
from prefillshare.training.bridges.ends import BridgeSettings, Ends, Say
from prefillshare.training.bridges.hand_off import hand_off_cost


@dataclass(frozen=True)
class Trial:
    """A bridge on some prompts.

    Attributes:
        heads: attention-output cosine, the mean by layer and query head `[L, Q]`.
        texts: the losses of the prompts' second halves.
    """

    heads: torch.Tensor
    texts: tuple[Continuation, ...]

    @property
    def recovered(self) -> float | None:
        """See `continuation.recovered`."""
        return recovered(self.texts)

    @property
    def sentence(self) -> str:
        """For a person."""
        share = self.recovered
        gain = "nothing" if share is None else f"{share:.0%}"
        of = "; own prefill gains nothing here" if share is None else ""
        return (
            f"over {len(self.texts)} prompts the bridge recovers {gain} of what own "
            f"prefill gains over no context{of}; attention-output cosine "
            f"{float(self.heads.mean()):.3f}"
        )

    def figures(self) -> dict[str, Any]:
        """As results have it."""
        return {
            "prompts": len(self.texts),
            "recovered": self.recovered,
            "continuation": list(by_stretch(self.texts)),
            "cosine": {
                "layers": self.heads.mean(1).tolist(),
                "heads": self.heads.tolist(),
                "all": float(self.heads.mean()),
            },
        }


def inspect(settings: BridgeSettings, say: Say, prompts: int = 8) -> dict[str, Any]:
    """A saved bridge on test prompts.

    Returns `continuation`, losses by distance from a boundary in the prompts' middle,
    beside own prefill and no context, and the share `recovered`; `cosine`, the
    attention-output cosine by layer, by query head and over all; and `hand_off`, what
    bridging costs beside own prefill.

    Raises:
        IdentityError: the bridge joins other models.
    """
    ends = Ends.open(settings)
    bridge = load_bridge(settings.output, ends.ids)
    bridge.take_embeddings(ends.table)
    trial = try_out(ends, settings, bridge, prompts)
    say(trial.sentence)
    example = next(ends.prompts(settings.tasks, "test"))
    return {**trial.figures(), "hand_off": hand_off_cost(ends, example, bridge)}


def try_out(
    ends: Ends, settings: BridgeSettings, bridge: Bridge, prompts: int
) -> Trial:
    """A bridge between `ends` on the first `prompts` test prompts."""
    heads, texts = [], []
    for example in islice(ends.prompts(settings.tasks, "test"), prompts):
        pair = ends.caches(example)
        ids = (*example.prompt.token_ids, *example.response)
        heads.append(attention_cosine(ends.target, ids, bridged(bridge, pair)))
        texts.append(continuation(ends.target, bridge, pair, example.prefill_ids))
    return Trial(torch.stack(heads).mean(0), tuple(texts))


@torch.no_grad()
def bridged(bridge: Bridge, pair: Pair) -> Layers:
    """What `bridge` makes of the source's cache, in the target's tokens."""
    positions = torch.arange(pair.source[0][0].shape[2])
    layers: Layers = bridge(pair.source, positions, pair.tokens)
    return layers
