"""One row an example, padded: the plain way, for models whose rows cannot be packed.

A recurrent layer's state runs through every token of a row, so examples cannot lie in
one row, and padding may stand only behind the last token that counts. It is also what
the packed rows are tested against.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache

from prefillshare.kv.cache import empty_state
from prefillshare.kv.layout import KVLayout
from prefillshare.training.data import Example
from prefillshare.training.objective import ResponsePlaces, ResponseScores


def score_padded(
    prefill: Any,
    decoder: Any,
    examples: Sequence[Example],
    *,
    train_prefill: bool = False,
) -> ResponseScores:
    """Score `examples` in one row each, right-padded before and behind the boundary.

    Args:
        prefill: the model whose cache is read.
        decoder: the model that reads the cache and the rest.
        examples: all with the boundary at the same position, unless the model's
            layers are all full attention (`KVLayout.requires_equal_rows`).
        train_prefill: keep gradients through the cache (ordinary fine-tuning).
    """
    device = decoder.device
    with torch.set_grad_enabled(train_prefill and torch.is_grad_enabled()):
        cache, mask = _prefill(prefill, [e.prefill_ids for e in examples])
    ids, present = _pad([e.decoder_ids for e in examples], device)
    starts = torch.tensor([e.prompt.boundary for e in examples], device=device)
    output = decoder(
        input_ids=ids,
        past_key_values=cache,
        attention_mask=torch.cat([mask, present], 1),
        position_ids=starts[:, None] + torch.arange(ids.shape[1], device=device),
        use_cache=True,
    )
    places = ResponsePlaces.of(examples, device)
    logits = output.logits[present.bool()][places.at]
    return ResponseScores(logits, places.labels, places.owner)


class OneByOne:
    """The scheme for recurrent models: every example a forward pass of its own."""

    def __init__(self, prefill_model: Any | None) -> None:
        """With None the decoder prefills for itself (ordinary fine-tuning)."""
        self.prefill_model = prefill_model

    def prefill(self, packed: Any) -> None:
        """Nothing is shared between the examples of a pass."""

    def read(
        self, decoder: Any, packed: Any, which: Sequence[int], prefilled: None
    ) -> ResponseScores:
        """Score the examples `which`."""
        own = self.prefill_model is None
        prefill = decoder if own else self.prefill_model
        parts = [
            score_padded(prefill, decoder, [packed.examples[i]], train_prefill=own)
            for i in which
        ]
        return ResponseScores(
            torch.cat([part.logits for part in parts]),
            torch.cat([part.labels for part in parts]),
            torch.cat([part.owner + i for i, part in enumerate(parts)]),
        )


def needs_one_by_one(config: Any) -> bool:
    """Whether a model's layers keep a recurrent state."""
    return KVLayout.from_config(config).has_recurrent_state


def _prefill(
    model: Any, prompts: Sequence[Sequence[int]]
) -> tuple[DynamicCache, torch.Tensor]:
    """The caches of all prompts, and their mask `[B, longest]`."""
    cache = empty_state(KVLayout.from_config(model.config))
    ids, mask = _pad(prompts, model.device)
    model(
        input_ids=ids,
        past_key_values=cache,
        attention_mask=mask,
        use_cache=True,
        logits_to_keep=1,
    )
    return cache, mask


def _pad(
    rows: Sequence[Sequence[int]], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and their mask, both `[B, longest]`."""
    width = max(len(row) for row in rows)
    ids = [[*row, *[0] * (width - len(row))] for row in rows]
    mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
