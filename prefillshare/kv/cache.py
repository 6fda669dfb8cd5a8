"""One prompt's keys, values and recurrent states, and their way into and out of blocks.

Shapes: H kv heads, T tokens, D head dimension, L layers, B tokens per block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from prefillshare.errors import UnsupportedModelError
from prefillshare.kv.layout import KVFormat, KVLayout
from prefillshare.kv.states import RecurrentState, StateLayer

Layer = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class KVCache:
    """What a prompt left in a model's layers. Never changed in place.

    Attributes:
        layers: keys and values `[H, T, D]` of each attention layer, in order.
        states: the recurrent layers' states after the last of the T tokens.
    """

    layers: tuple[Layer, ...]
    states: tuple[RecurrentState, ...] = ()

    @classmethod
    def from_transformers(cls, cache: DynamicCache, row: int = 0) -> Self:
        """Row `row` of a cache that `empty_state` or `to_transformers` made.

        Its keys and values are `[batch, H, T, D]`; states are copied.

        Raises:
            ValueError: a layer has forgotten tokens outside its window.
        """
        all_layers: list[Any] = cache.layers
        layers = [x for x in all_layers if not isinstance(x, StateLayer)]
        for layer in layers:
            if layer.get_seq_length() != layer.keys.shape[-2]:
                raise ValueError(
                    f"a layer kept {layer.keys.shape[-2]} of its "
                    f"{layer.get_seq_length()} tokens; give the model a cache from "
                    "empty_state, which keeps all"
                )
        states = [
            layer.snapshot(i, row)
            for i, layer in enumerate(all_layers)
            if isinstance(layer, StateLayer)
        ]
        return cls(
            tuple((layer.keys[row], layer.values[row]) for layer in layers),
            tuple(states),
        )

    def to_transformers(self, rows: int = 1) -> DynamicCache:
        """A transformers cache of `rows` equal rows.

        Growing it leaves this cache as it is: keys and values are concatenated into
        new tensors, states are copied here.
        """
        if not self.layers:
            return DynamicCache()
        cache = DynamicCache(
            ddp_cache_data=[
                (k[None].expand(rows, -1, -1, -1), v[None].expand(rows, -1, -1, -1))
                for k, v in self.layers
            ]
        )
        for state in sorted(self.states, key=lambda state: state.layer):
            cache.layers.insert(state.layer, StateLayer.of(state, rows))
        return cache

    @property
    def tokens(self) -> int:
        """How many tokens the cache covers."""
        return self.layers[0][0].shape[1] if self.layers else 0

    @property
    def nbytes(self) -> int:
        """Bytes of all keys, values and states."""
        tensors = [tensor for layer in self.layers for tensor in layer]
        tensors += [tensor for state in self.states for tensor in state.tensors]
        return sum(tensor.nbytes for tensor in tensors)

    def slice(self, start: int, stop: int) -> Self:
        """Tokens `start` to `stop`, as views, with the states after the last one.

        Raises:
            UnsupportedModelError: there are states, and tokens behind `stop` that
                cannot be taken out of them again.
        """
        if self.states and 0 < stop < self.tokens:
            raise UnsupportedModelError(
                f"a cache of {self.tokens} tokens with the states of "
                f"{len(self.states)} recurrent layers cannot be cut after {stop}; keep "
                "a checkpoint there while the prompt is prefilled"
            )
        layers = tuple((k[:, start:stop], v[:, start:stop]) for k, v in self.layers)
        return type(self)(layers, self.states if stop else ())

    @classmethod
    def concatenate(cls, parts: Sequence[KVCache]) -> Self:
        """The caches of consecutive stretches of one prompt, joined.

        States are those of the last part.
        """
        columns = zip(*(part.layers for part in parts), strict=True)
        layers = tuple(
            (torch.cat([k for k, _ in layer], 1), torch.cat([v for _, v in layer], 1))
            for layer in columns
        )
        return cls(layers, parts[-1].states)


def empty_state(layout: KVLayout) -> DynamicCache:
    """A cache of no tokens to run a model of `layout` on.

    Unlike the one that transformers makes from a config it keeps all tokens of a
    layer with a sliding window (the mask applies it), and its recurrent states can be
    differentiated through and repeated over rows.
    """
    cache = DynamicCache()
    recurrent = [layer.kind == "recurrent" for layer in layout.layers]
    cache.layers = [StateLayer() if r else DynamicLayer() for r in recurrent]
    return cache


def write_block(
    block: torch.Tensor, cache: KVCache, start: int, layout: KVLayout, form: KVFormat
) -> None:
    """Write tokens `start .. start + B` of `cache` into `block` (uint8, one block).

    A partial block is filled with zeros, never with what lay there before.
    """
    part = cache.slice(start, start + form.block_tokens)
    for (k_HTD, v_HTD), (k_HBD, v_HBD) in zip(
        part.layers, _block_layers(block, layout, form), strict=True
    ):
        for source, target in ((k_HTD, k_HBD), (v_HTD, v_HBD)):
            target[:, : part.tokens] = source
            target[:, part.tokens :] = 0


def read_blocks(
    blocks: Sequence[torch.Tensor], tokens: int, layout: KVLayout, form: KVFormat
) -> KVCache:
    """The cache of `tokens` tokens out of consecutive `blocks`, copied.

    Raises:
        ValueError: the number of blocks is not what `tokens` needs.
    """
    if len(blocks) != form.blocks(tokens):
        raise ValueError(
            f"{tokens} tokens need {form.blocks(tokens)} blocks of "
            f"{form.block_tokens} tokens, got {len(blocks)}"
        )
    per_block = [_block_layers(block, layout, form) for block in blocks]
    return KVCache.concatenate([KVCache(tuple(x)) for x in per_block]).slice(0, tokens)


def _block_layers(block: torch.Tensor, layout: KVLayout, form: KVFormat) -> list[Layer]:
    """Views `[H, B, D]` of a block's keys and values, per layer."""
    elements = block.view(form.torch_dtype)
    layers, at = [], 0
    for layer in layout.attention_layers:
        shape = (2, layer.kv_heads, form.block_tokens, layer.head_dim)
        size = 2 * layer.kv_heads * form.block_tokens * layer.head_dim
        pair = elements[at : at + size].view(shape)
        layers.append((pair[0], pair[1]))
        at += size
    return layers
