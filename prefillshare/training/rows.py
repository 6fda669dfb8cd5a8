"""Forward passes over packed rows.

Shapes: H kv heads, D head dimension, N tokens of the prefill row, S of a decoder
row, R response tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from prefillshare.training.attention import (
    DENSE,
    PACKED,
    packed_mask,
    use_packed_attention,
)
from prefillshare.training.data import Example
from prefillshare.training.objective import ResponsePlaces, ResponseScores
from prefillshare.training.packing import Row

# Keys and values `[1, H, N, D]` per layer.
Layers = tuple[tuple[torch.Tensor, torch.Tensor], ...]


class ReadCache(Cache):
    """A cache that is read and never grows.

    A layer attends to what it holds and to the row's own keys and values, which are
    not kept. So several decoders may read one cache, and a layer may be computed
    twice (gradient checkpointing) with the same result.
    """

    def __init__(self, layers: Layers, *, own: bool = True) -> None:
        """With `own=False` the row's keys and values are left out: it only reads."""
        super().__init__(layer_class_to_replicate=DynamicLayer)
        self._held, self._own = layers, own

    def update(
        self, key_states: Any, value_states: Any, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What layer `layer_idx` attends to."""
        keys, values = self._held[layer_idx]
        if not self._own:
            return keys, values
        return (
            torch.cat([keys, key_states], dim=2),
            torch.cat([values, value_states], dim=2),
        )

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens held."""
        return int(self._held[layer_idx][0].shape[2])


class PrefillCache(Cache):
    """Records what a prefill row's layers make, behind what is `known`.

    Recording ends with `take`: a layer that is computed once more, for the backward
    pass, sees what it saw before, and keeps nothing alive.
    """

    def __init__(self, known: Layers | None = None) -> None:
        super().__init__(layer_class_to_replicate=DynamicLayer)
        self._known = known
        self._made: dict[int, tuple[torch.Tensor, torch.Tensor]] | None = {}

    def update(
        self, key_states: Any, value_states: Any, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What layer `layer_idx` attends to."""
        made = (key_states, value_states)
        if self._known is not None:
            keys, values = self._known[layer_idx]
            made = (
                torch.cat([keys, key_states], dim=2),
                torch.cat([values, value_states], dim=2),
            )
        if self._made is not None:
            self._made[layer_idx] = made
        return made

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens known."""
        return 0 if self._known is None else int(self._known[layer_idx][0].shape[2])

    def take(self) -> Layers:
        """All layers' keys and values; nothing is recorded from then on."""
        made, self._made = self._made or {}, None
        return tuple(made[index] for index in sorted(made))


def prefill_row(
    model: Any,
    row: Row,
    known: Layers | None = None,
    known_pieces: Sequence[int] = (),
    **inputs: Any,
) -> Layers:
    """The keys and values of a prefill row.

    Args:
        model: whose keys and values.
        known: those of the pieces `known_pieces` of the row, in that order, if they
            are at hand; with a piece, those that it sees are known too.
        inputs: more for the model's forward; `inputs_embeds` replaces the ids.
    """
    numbers = range(len(row.pieces))
    order = [*known_pieces, *(i for i in numbers if i not in set(known_pieces))]
    ordered, first = row.reordered(order), len(known_pieces)
    behind, rest = Row(ordered.pieces[:first]), Row(ordered.pieces[first:])
    cache = PrefillCache(known)
    if rest.pieces:
        _forward(model, behind, rest, cache, **inputs)
    layers = cache.take() if rest.pieces else known or ()
    if order == list(numbers):
        return layers
    spans = list(ordered.spans())
    return join_layers([cut_layers(layers, *spans[order.index(i)]) for i in numbers])


def cut_layers(layers: Layers, start: int, stop: int) -> Layers:
    """Tokens `start` to `stop` (exclusive)."""
    return tuple((k[:, :, start:stop], v[:, :, start:stop]) for k, v in layers)


def join_layers(parts: Sequence[Layers]) -> Layers:
    """The tokens of all `parts`, one behind the other."""
    return tuple(
        (
            torch.cat([keys for keys, _ in layer], dim=2),
            torch.cat([values for _, values in layer], dim=2),
        )
        for layer in zip(*parts, strict=True)
    )


def _forward(
    model: Any, behind: Row, row: Row, cache: PrefillCache, **inputs: Any
) -> None:
    """One pass over `row`, which lies behind the row that the cache knows."""
    if "inputs_embeds" not in inputs:
        inputs["input_ids"] = row.ids(model.device)
    positions = row.positions(model.device)
    if not behind.pieces and len(row.pieces) == 1:
        mask = None  # plain causal attention, which has the faster kernel
    else:
        seen = torch.cat([behind.positions(model.device), positions], 1)
        mask = attention_mask(model.config, row, behind.tokens, positions, seen)
    model(
        past_key_values=cache,
        attention_mask=mask,
        position_ids=positions,
        use_cache=True,
        logits_to_keep=1,
        **inputs,
    )


def read_row(
    decoder: Any,
    row: Row,
    examples: Sequence[Example],
    cache: Cache | None,
    mask: Any,
    **inputs: Any,
) -> ResponseScores:
    """Score the responses of `examples`, which end `row`.

    Args:
        decoder: the model that reads.
        row: decoder pieces of `examples`, in order, possibly behind prefill pieces.
        cache: what the row sees beside itself.
        mask: see `attention_mask`.
        inputs: more for the model's forward.
    """
    places = ResponsePlaces.of(examples, decoder.device)
    before = row.tokens - sum(len(example.decoder_ids) for example in examples)
    output = decoder(
        input_ids=row.ids(decoder.device),
        past_key_values=cache,
        attention_mask=mask,
        position_ids=row.positions(decoder.device),
        use_cache=cache is not None,
        logits_to_keep=places.at + before,
        **inputs,
    )
    return ResponseScores(output.logits[0], places.labels, places.owner)


def attention_mask(
    config: Any,
    row: Row,
    past: int,
    positions: torch.Tensor,
    seen_positions: torch.Tensor,
) -> Any:
    """What each token of `row` sees, in the form that a model's forward takes.

    Args:
        config: the model's; layers with a sliding window see no further than it. A
            model that uses torch's attention goes over to `training.attention`.
        row: T tokens.
        past: tokens that could be seen before the row.
        positions: of the T tokens `[1, T]`.
        seen_positions: of the K tokens that could be seen, the row's own at the end
            `[1, K]`.
    """
    text = config.get_text_config()
    use_packed_attention(text)
    visible = row.visible(past).to(positions.device)
    masks = {"full_attention": _full_mask(text, visible, row, past)}
    window = getattr(text, "sliding_window", None)
    if window:
        near = positions[0, :, None] - seen_positions[0, None, :] < window
        masks["sliding_attention"] = _dense_mask(text, visible & near)
    kinds = set(getattr(text, "layer_types", None) or ())
    if kinds:
        return masks if len(kinds) > 1 or window else masks["full_attention"]
    return masks["sliding_attention" if window else "full_attention"]


def _full_mask(config: Any, visible: torch.Tensor, row: Row, past: int) -> torch.Tensor:
    if config._attn_implementation == PACKED:
        return packed_mask(visible, row, past)
    return _dense_mask(config, visible)


def _dense_mask(config: Any, visible: torch.Tensor) -> torch.Tensor:
    mask = visible[None, None]
    if config._attn_implementation in ("sdpa", PACKED, DENSE):
        return mask
    dtype = config.dtype or torch.get_default_dtype()
    blocked = torch.finfo(dtype).min
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, blocked)
