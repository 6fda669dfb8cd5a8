"""The decoder computes some layers of the prompt anew, on the base's hidden states.

After DroidSpeak (arXiv 2411.02820): layers `first .. last - 1` of the prompt's cache
are the decoder's, from the base's input to layer `first`; the others are the base's.
That input (DroidSpeak's E-cache, `width` numbers a token) travels with the keys and
values of the other layers. From layer 0 nothing but the token ids is needed: the
decoder embeds them itself.

All layers are the decoder's own prefill, none (`first = last`) is naive sharing. With
`last` the number of layers this is the sharing-ratio ablation: the first `first`
layers are shared.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch

from prefillshare.errors import ConfigError
from prefillshare.models.loading import share_weights
from prefillshare.training.objective import ResponseScores
from prefillshare.training.packing import Packed, Row
from prefillshare.training.rows import Layers, prefill_row
from prefillshare.training.schemes.cached import Cached


class Recompute:
    """Layers `first` to `last` (exclusive) of the prompt are the decoder's."""

    def __init__(self, prefill_model: Any, first: int, last: int) -> None:
        layers = prefill_model.config.get_text_config().num_hidden_layers
        if not 0 <= first <= last <= layers:
            raise ConfigError(
                f"cannot recompute layers {first} to {last} of {layers}; give "
                "first <= last, both within the model"
            )
        self.prefill_model = prefill_model
        self._first, self._last = first, last
        self._segments: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()

    def prefill(self, packed: Packed) -> tuple[Layers, torch.Tensor | None]:
        """The base's keys and values, and its input to layer `first` `[1, N, width]`.

        None if nothing is recomputed, or all from the token ids on.
        """
        wanted = [self._first] if 0 < self._first < self._last else []
        layers, inputs = prefill_with_inputs(self.prefill_model, packed.prefill, wanted)
        return layers, inputs.get(self._first)

    def read(
        self,
        decoder: Any,
        packed: Packed,
        which: Sequence[int],
        prefilled: tuple[Layers, torch.Tensor | None],
    ) -> ResponseScores:
        """Score the examples `which`."""
        layers, hidden = prefilled
        if self._first < self._last:
            inputs: dict[str, Any] = {"inputs_embeds": hidden} if self._first else {}
            own = prefill_row(self._segment(decoder), packed.prefill, **inputs)
            layers = layers[: self._first] + own + layers[self._last :]
        return Cached(self.prefill_model).read(decoder, packed, which, layers)

    def _segment(self, decoder: Any) -> Any:
        """The decoder's layers `first .. last - 1` as a model over the same weights."""
        if decoder not in self._segments:
            self._segments[decoder] = _segment(decoder, self._first, self._last)
        return self._segments[decoder]


def prefill_with_inputs(
    model: Any, row: Row, which: Collection[int]
) -> tuple[Layers, dict[int, torch.Tensor]]:
    """The keys and values of `row`, and what enters the layers `which` `[1, N, width]`.

    Without gradients.
    """
    caught: dict[int, torch.Tensor] = {}

    def catch(index: int, _: Any, inputs: tuple[Any, ...]) -> None:
        caught[index] = inputs[0]

    with ExitStack() as hooks, torch.no_grad():
        for index in which:
            layer = model.base_model.layers[index]
            hook = layer.register_forward_pre_hook(partial(catch, index))
            hooks.callback(hook.remove)
        return prefill_row(model, row), caught


def _segment(decoder: Any, first: int, last: int) -> Any:
    model: Any = share_weights(decoder)
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = copy.deepcopy(inner.config)
    text = config.get_text_config()
    text.num_hidden_layers = last - first
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[first:last]
    inner.config = inner.base_model.config = config
    if first and hasattr(inner.base_model, "embedding_multiplier"):
        # Granite scales what it is given as embeddings; a hidden state is no more.
        inner.base_model.embedding_multiplier = 1.0
    inner.base_model.layers = inner.base_model.layers[first:last]
    for index, layer in enumerate(inner.base_model.layers):
        layer.self_attn.layer_idx = index
    return inner
