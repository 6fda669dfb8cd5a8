"""Cache-conditioned: the frozen module prefills, the decoder reads its cache.

The prompt runs without gradients and keeps no activations; its keys and values can
be stored and read again (PrefillShare, arXiv 2602.12029).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from prefillshare.training.objective import ResponseScores
from prefillshare.training.packing import Packed, Piece, Row
from prefillshare.training.prefixes import PrefixStore
from prefillshare.training.rows import (
    Layers,
    ReadCache,
    attention_mask,
    cut_layers,
    join_layers,
    prefill_row,
    read_row,
)

# A shorter piece is not worth a forward pass of its own, nor storing.
MIN_STORED_TOKENS = 32


class Cached:
    """Reads the cache of `prefill_model`.

    With a `store`, what several prompts of a pass have in common (each context of
    several) is computed once, by itself, and kept. `train_prefill` keeps gradients
    through the cache, for a prefill module that is tuned together with its decoders.
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
            known, pieces = self._stored(packed)
            return prefill_row(self.prefill_model, packed.prefill, known, pieces)

    def read(
        self, decoder: Any, packed: Packed, which: Sequence[int], prefilled: Layers
    ) -> ResponseScores:
        """Score the examples `which` on the cache."""
        row = packed.decoder_row(which)
        mask = reading_mask(decoder, packed.prefill, row)
        examples = [packed.examples[i] for i in which]
        return read_row(decoder, row, examples, ReadCache(prefilled), mask)

    def _stored(self, packed: Packed) -> tuple[Layers | None, list[int]]:
        """Of which pieces the store has, or now gets, the keys and values; and these.

        What is stored begins with a prompt's first token: it depends on no other
        prompt of the pass, so it is equal to the bit wherever it comes from.
        """
        pieces, known = packed.prefill.pieces, list[int]()
        parts: list[Layers] = []
        for path in packed.shared_paths(MIN_STORED_TOKENS) if self._store else []:
            ids = tuple(token for i in path for token in pieces[i].ids)
            fresh = [i for i in path if i not in known]
            layers = self._get(ids)
            parts.append(cut_layers(layers, pieces[fresh[0]].start, len(ids)))
            known += fresh
        return (join_layers(parts) if parts else None), known

    def _get(self, ids: tuple[int, ...]) -> Layers:
        assert self._store is not None
        alone = Row((Piece(ids, 0, ()),))
        return self._store.get(ids, lambda: prefill_row(self.prefill_model, alone))


def reading_mask(decoder: Any, prefill: Row, row: Row) -> Any:
    """The mask of a decoder row over the whole prefill row and itself."""
    positions = row.positions(decoder.device)
    seen = torch.cat([prefill.positions(decoder.device), positions], 1)
    return attention_mask(decoder.config, row, prefill.tokens, positions, seen)
