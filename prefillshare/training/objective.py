"""Cache-conditioned fine-tuning: the response's likelihood given a prefill cache.

With C the prefill module's cache of `prompt[:boundary]`, the loss is
``-mean log p_decoder(response_t | prompt[boundary:], response_<t, C)``
(PrefillShare, arXiv 2602.12029). Ordinary fine-tuning is the same with the decoder
as its own prefill module and gradients through the cache.

Shapes: B examples of one context, T decoder positions, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers import DynamicCache

from prefillshare.training.data import ContextGroup, Example

IGNORED = -100


@dataclass(frozen=True)
class ResponseScores:
    """Logits `[B, T, V]` and the labels `[B, T]`, `IGNORED` outside the response."""

    logits: torch.Tensor
    labels: torch.Tensor

    def loss(self) -> torch.Tensor:
        """Mean negative log-likelihood per response token, in nats."""
        return self._nll_BT().sum() / (self.labels != IGNORED).sum()

    def nll(self) -> torch.Tensor:
        """Per example, the mean negative log-likelihood per response token `[B]`."""
        return self._nll_BT().sum(1) / (self.labels != IGNORED).sum(1)

    def greedy_correct(self) -> torch.Tensor:
        """Per example, whether greedy decoding yields the response `[B]`, bool.

        Teacher forcing is exact here: as long as every argmax is right, greedy
        decoding sees the same prefix.
        """
        right = self.logits.argmax(-1) == self.labels
        return (right | (self.labels == IGNORED)).all(1)

    def _nll_BT(self) -> torch.Tensor:  # noqa: N802
        return functional.cross_entropy(
            self.logits.transpose(1, 2),
            self.labels,
            reduction="none",
            ignore_index=IGNORED,
        )


def score_group(
    prefill: Any, decoder: Any, group: ContextGroup, *, train_prefill: bool = False
) -> ResponseScores:
    """Score all examples of a group over one prefill of their common prefix.

    Args:
        prefill: the model whose cache is read.
        decoder: the model that reads the cache and the rest.
        train_prefill: keep gradients through the cache (ordinary fine-tuning).
    """
    with torch.set_grad_enabled(train_prefill and torch.is_grad_enabled()):
        cache, mask = _prefill(prefill, group)
    rows = group.examples
    ids, present = _pad([row.decoder_ids for row in rows], decoder.device)
    starts = torch.tensor([row.prompt.boundary for row in rows], device=ids.device)
    output = decoder(
        input_ids=ids,
        past_key_values=cache,
        attention_mask=torch.cat([mask, present], 1),
        position_ids=starts[:, None] + torch.arange(ids.shape[1], device=ids.device),
        use_cache=True,
    )
    return ResponseScores(output.logits, _labels(rows, ids.shape[1], ids.device))


def _prefill(model: Any, group: ContextGroup) -> tuple[DynamicCache, torch.Tensor]:
    """The caches of all prompts up to their boundaries, and their mask `[B, past]`."""
    rows, common = group.examples, group.common_tokens
    cache = DynamicCache()
    if common:
        ids = torch.tensor([rows[0].prompt.token_ids[:common]], device=model.device)
        model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.batch_repeat_interleave(len(rows))
    mask = torch.ones(len(rows), common, dtype=torch.long, device=model.device)
    own = [row.prompt.token_ids[common : row.prompt.boundary] for row in rows]
    if not any(own):
        return cache, mask
    ids, present = _pad(own, model.device)
    mask = torch.cat([mask, present], 1)
    model(
        input_ids=ids,
        past_key_values=cache,
        attention_mask=mask,
        position_ids=(common + torch.arange(ids.shape[1], device=ids.device))[None],
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


def _labels(rows: Sequence[Example], width: int, device: torch.device) -> torch.Tensor:
    labels = torch.full((len(rows), width), IGNORED, device=device)
    for row, example in zip(labels, rows, strict=True):
        # Position i predicts token i + 1: the last prompt token predicts the first.
        first = len(example.prompt.remainder) - 1
        response = torch.tensor(example.response, device=device)
        row[first : first + len(response)] = response
    return labels


def learning_rate_factor(step: int, *, warmup: int, steps: int) -> float:
    """Linear warm-up, then a cosine to 5 % of the peak."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return max(0.05, 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress))))
