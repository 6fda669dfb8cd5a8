"""All keys and values from the frozen base; the decoder only reads them.

After ICaRus (arXiv 2603.13281): the response's tokens too are prefilled by the base,
so nothing is prefilled again at a hand-off, but every decoding step runs both models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from prefillshare.training.objective import ResponseScores
from prefillshare.training.packing import Packed, Row
from prefillshare.training.rows import Layers, ReadCache, prefill_row, read_row
from prefillshare.training.schemes.cached import Cached, reading_mask


class Icarus(Cached):
    """The decoder's own key and value projections are never used."""

    def read(
        self, decoder: Any, packed: Packed, which: Sequence[int], prefilled: Layers
    ) -> ResponseScores:
        """Score the examples `which`."""
        row = packed.decoder_row(which)
        everything = Row((*packed.prefill.pieces, *row.pieces))
        with torch.no_grad():
            layers = prefill_row(
                self.prefill_model,
                everything,
                prefilled,
                range(len(packed.prefill.pieces)),
            )
        mask = reading_mask(decoder, packed.prefill, row)
        examples = [packed.examples[i] for i in which]
        return read_row(decoder, row, examples, ReadCache(layers, own=False), mask)
