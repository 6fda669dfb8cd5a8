"""Cache-conditioned: the frozen module prefills, the decoder reads its cache.

The prompt runs without gradients and keeps no activations; its keys and values can
be stored and read again (PrefillShare, arXiv 2602.12029).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from prefillshare.training.objective import ResponseScores
from prefillshare.training.packing import Packed, Row
from prefillshare.training.prefixes import PrefixStore
from prefillshare.training.rows import (
    Layers,
    ReadCache,
    attention_mask,
    prefill_row,
    read_row,
)

# A shorter first piece is not worth a forward pass of its own, nor storing.
MIN_STORED_TOKENS = 32


class Cached:
    """Reads the cache of `prefill_model`.

    With a `store`, the first piece of every pass (a shared context) is computed once
    and kept. `train_prefill` keeps gradients through the cache, for a prefill module
    that is tuned together with its decoders.
    """

    def __init__(
        self,
        prefill_model: Any,
        store: PrefixStore | None = None,
        *,
        train_prefill: bool = False,
    ) -> None:
        self.prefill_model = prefill_model
        self._store = None if train_prefill else store
        self._train_prefill = train_prefill

    def prefill(self, packed: Packed) -> Layers:
        """The keys and values of the prefill row."""
        with torch.set_grad_enabled(self._train_prefill and torch.is_grad_enabled()):
            return prefill_row(self.prefill_model, packed.prefill, self._first(packed))

    def read(
        self, decoder: Any, packed: Packed, which: Sequence[int], prefilled: Layers
    ) -> ResponseScores:
        """Score the examples `which` on the cache."""
        row = packed.decoder_row(which)
        mask = reading_mask(decoder, packed.prefill, row)
        examples = [packed.examples[i] for i in which]
        return read_row(decoder, row, examples, ReadCache(prefilled), mask)

    def _first(self, packed: Packed) -> Layers | None:
        """The first piece's keys and values, out of the store or computed for it."""
        pieces = packed.prefill.pieces
        if not self._store or not pieces or not _is_worth_storing(packed):
            return None
        first = Row(pieces[:1])
        return self._store.get(
            pieces[0].ids, lambda: prefill_row(self.prefill_model, first)
        )


def _is_worth_storing(packed: Packed) -> bool:
    """Whether the first piece is long, and all that a prompt or several begin with.

    One of several prompts that have nothing in common is not: it would take memory
    and a forward pass of its own.
    """
    length = len(packed.prefill.pieces[0].ids)
    readers = sum((0, length) in piece.sees for piece in packed.read)
    alone = len(packed.read) == 1
    return length >= MIN_STORED_TOKENS and (alone or readers > 1)


def reading_mask(decoder: Any, prefill: Row, row: Row) -> Any:
    """The mask of a decoder row over the whole prefill row and itself."""
    positions = row.positions(decoder.device)
    seen = torch.cat([prefill.positions(decoder.device), positions], 1)
    return attention_mask(decoder.config, row, prefill.tokens, positions, seen)
