"""Cache-conditioned across models: the decoder reads the prefill module's cache mapped.

The bridge is a part of the decoder's model and is trained with it. The prefill module
stays frozen, and its cache can be stored as ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from prefillshare.models.bridge.bridge import Layers, bridge_of
from prefillshare.models.bridge.spans import Alignment, Shares
from prefillshare.models.bridge.target import TargetTokens
from prefillshare.training.objective import ResponseScores
from prefillshare.training.packing import Packed, Piece, Row, Span, prefix_tree
from prefillshare.training.prefixes import PrefixStore
from prefillshare.training.rows import ReadCache, read_row
from prefillshare.training.schemes.cached import Cached, reading_mask


@dataclass(frozen=True)
class _Prefilled:
    """The source's cache, its positions, and the decoder's tokens that it is of."""

    layers: Layers
    positions: torch.Tensor
    target: TargetTokens


class Bridged:
    """Reads the cache of `prefill_model` through each decoder's own bridge."""

    def __init__(self, prefill_model: Any, store: PrefixStore | None = None) -> None:
        self._cached = Cached(prefill_model, store)

    def prefill(self, packed: Packed) -> _Prefilled:
        """The prefill module's cache, in tokens of its own."""
        device = self._cached.prefill_model.device
        if any(example.prompt.source is None for example in packed.examples):
            positions = packed.prefill.positions(device)[0]
            target = _target(packed.prefill, None, device)
            return _Prefilled(self._cached.prefill(packed), positions, target)
        source, alignment = _source(packed)
        positions = source.prefill.positions(device)[0]
        target = _target(packed.prefill, alignment, device)
        return _Prefilled(self._cached.prefill(source), positions, target)

    def read(
        self, decoder: Any, packed: Packed, which: Sequence[int], prefilled: _Prefilled
    ) -> ResponseScores:
        """Score the examples `which` on the bridged cache."""
        bridge = bridge_of(decoder)
        assert bridge is not None, "a decoder is read through the bridge that it has"
        layers = bridge(prefilled.layers, prefilled.positions, prefilled.target)
        row = packed.decoder_row(which)
        mask = reading_mask(decoder, packed.prefill, row)
        examples = [packed.examples[i] for i in which]
        return read_row(decoder, row, examples, ReadCache(layers), mask)


def _target(
    row: Row, alignment: Alignment | None, device: torch.device
) -> TargetTokens:
    before = torch.tensor(row.before(), device=device)
    return TargetTokens(row.ids(device)[0], row.positions(device)[0], before, alignment)


def _source(packed: Packed) -> tuple[Packed, Alignment]:
    """The same prompts in the prefill module's tokens, and the rows' alignment."""
    sources = [example.prompt.source for example in packed.examples]
    prompts = [source.token_ids for source in sources if source is not None]
    row, paths = prefix_tree(prompts)
    # The decoder reads behind these, in tokens of its own.
    read = tuple(
        Piece((), len(ids), path) for ids, path in zip(prompts, paths, strict=True)
    )
    rows: list[Shares] = [()] * packed.prefill.tokens
    for source, piece, path in zip(sources, packed.read, paths, strict=True):
        assert source is not None
        here = _places(path)
        for place, shares in zip(_places(piece.sees), source.shares, strict=True):
            rows[place] = tuple((here[i], weight) for i, weight in shares)
    return Packed(packed.examples, row, read), Alignment.of(rows)


def _places(spans: Sequence[Span]) -> list[int]:
    return [at for low, high in spans for at in range(low, high)]
