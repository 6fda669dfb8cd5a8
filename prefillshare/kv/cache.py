"""One prompt's keys and values, and their way into and out of blocks.

Shapes: H kv heads, T tokens, D head dimension, L layers, B tokens per block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from transformers import DynamicCache

from prefillshare.kv.layout import KVFormat, KVLayout

Layer = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class KVCache:
    """Keys and values `[H, T, D]` per layer. Never changed in place."""

    layers: tuple[Layer, ...]

    @classmethod
    def from_transformers(cls, cache: DynamicCache, row: int = 0) -> Self:
        """Row `row` of a transformers cache, whose tensors are `[batch, H, T, D]`."""
        layers: list[Any] = cache.layers
        return cls(tuple((layer.keys[row], layer.values[row]) for layer in layers))

    def to_transformers(self, rows: int = 1) -> DynamicCache:
        """A transformers cache of `rows` equal rows.

        Growing it concatenates into new tensors, so this cache stays as it is.
        """
        return DynamicCache(
            ddp_cache_data=[
                (k[None].expand(rows, -1, -1, -1), v[None].expand(rows, -1, -1, -1))
                for k, v in self.layers
            ]
        )

    @property
    def tokens(self) -> int:
        """How many tokens the cache covers."""
        return self.layers[0][0].shape[1] if self.layers else 0

    def slice(self, start: int, stop: int) -> Self:
        """Tokens `start` to `stop`, as views."""
        return type(self)(
            tuple((k[:, start:stop], v[:, start:stop]) for k, v in self.layers)
        )

    @classmethod
    def concatenate(cls, parts: Sequence[KVCache]) -> Self:
        """The caches of consecutive stretches of one prompt, joined."""
        columns = zip(*(part.layers for part in parts), strict=True)
        return cls(
            tuple(
                (
                    torch.cat([k for k, _ in layer], 1),
                    torch.cat([v for _, v in layer], 1),
                )
                for layer in columns
            )
        )


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
    for layer in layout.layers:
        shape = (2, layer.kv_heads, form.block_tokens, layer.head_dim)
        size = 2 * layer.kv_heads * form.block_tokens * layer.head_dim
        pair = elements[at : at + size].view(shape)
        layers.append((pair[0], pair[1]))
        at += size
    return layers
