"""The decoder computes some layers of the prompt anew, on the base's hidden states.

After DroidSpeak (arXiv 2411.02820): layers `first .. last - 1` of the prompt's cache
are the decoder's, from the base's input to layer `first`; the others are the base's.
With `last` the number of layers this is the sharing-ratio ablation: the first `first`
layers are shared. `first = 0` over all layers is the decoder's own prefill.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from prefillshare.errors import ConfigError
from prefillshare.models.loading import share_weights
from prefillshare.training.objective import ResponseScores
from prefillshare.training.packing import Packed
from prefillshare.training.rows import Layers, ReadCache, prefill_row, read_row
from prefillshare.training.schemes.cached import reading_mask


class Recompute:
    """Layers `first` to `last` (exclusive) of the prompt are the decoder's."""

    def __init__(self, prefill_model: Any, first: int, last: int) -> None:
        layers = prefill_model.config.get_text_config().num_hidden_layers
        if not 0 <= first < last <= layers:
            raise ConfigError(
                f"cannot recompute layers {first} to {last} of {layers}; give "
                "first < last, both within the model"
            )
        self.prefill_model = prefill_model
        self._first, self._last = first, last
        self._segments: dict[int, Any] = {}

    def prefill(self, packed: Packed) -> tuple[Layers, torch.Tensor]:
        """The base's keys and values; its input to layer `first` `[1, N, width]`."""
        caught: list[torch.Tensor] = []
        layer = self.prefill_model.base_model.layers[self._first]
        handle = layer.register_forward_pre_hook(
            lambda _, inputs: caught.append(inputs[0])
        )
        try:
            with torch.no_grad():
                layers = prefill_row(self.prefill_model, packed.prefill)
        finally:
            handle.remove()
        return layers, caught[0]

    def read(
        self,
        decoder: Any,
        packed: Packed,
        which: Sequence[int],
        prefilled: tuple[Layers, torch.Tensor],
    ) -> ResponseScores:
        """Score the examples `which`."""
        shared, hidden = prefilled
        own = prefill_row(self._segment(decoder), packed.prefill, inputs_embeds=hidden)
        layers = shared[: self._first] + own + shared[self._last :]
        row = packed.decoder_row(which)
        mask = reading_mask(decoder, packed.prefill, row)
        examples = [packed.examples[i] for i in which]
        return read_row(decoder, row, examples, ReadCache(layers), mask)

    def _segment(self, decoder: Any) -> Any:
        """The decoder's layers `first .. last - 1` as a model over the same weights."""
        if id(decoder) not in self._segments:
            self._segments[id(decoder)] = _segment(decoder, self._first, self._last)
        return self._segments[id(decoder)]


def _segment(decoder: Any, first: int, last: int) -> Any:
    model: Any = share_weights(decoder)
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = copy.deepcopy(inner.config)
    text = config.get_text_config()
    text.num_hidden_layers = last - first
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[first:last]
    inner.config = inner.base_model.config = config
    inner.base_model.layers = inner.base_model.layers[first:last]
    for index, layer in enumerate(inner.base_model.layers):
        layer.self_attn.layer_idx = index
    return inner
