"""How well a decoder attends on a bridged cache: attention-output cosine.

For queries behind the boundary, the output of each head over the bridged cache is
compared with that over the decoder's own cache of the same prompt: what the decoder
notices of a difference, which a fit's R squared does not say.

Shapes: L layers, Q query heads, H kv heads, T tokens, B of them before the boundary, D
head dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cosine_similarity, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from prefillshare.kv.layout import KVLayout
from prefillshare.models.bridge.bridge import Layers

_RECORDING = "prefillshare_recording"


@dataclass(frozen=True)
class _Seen:
    """What one layer attends with: queries `[1, Q, T, D]`, keys and values."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    scaling: float | None


@torch.no_grad()
def attention_cosine(
    model: Any, token_ids: Sequence[int], bridged: Layers
) -> torch.Tensor:
    """The mean cosine of every layer and query head `[L, Q]`.

    Args:
        model: the decoder's causal language model.
        token_ids: a prompt and what follows it.
        bridged: keys and values of its first B tokens.
    """
    boundary = bridged[0][0].shape[2]
    with _recording(model) as seen:
        model(input_ids=torch.tensor([list(token_ids)], device=model.device))
    windows = [x.window for x in KVLayout.from_config(model.config).attention_layers]
    rows = []
    for layer, (keys, values), window in zip(seen, bridged, windows, strict=True):
        mixed = (
            torch.cat([keys, layer.key[:, :, boundary:]], 2),
            torch.cat([values, layer.value[:, :, boundary:]], 2),
        )
        own = _outputs(layer, (layer.key, layer.value), boundary, window)
        other = _outputs(layer, mixed, boundary, window)
        rows.append(cosine_similarity(own, other, dim=-1)[0].mean(-1))
    return torch.stack(rows)


def _outputs(
    layer: _Seen,
    cache: tuple[torch.Tensor, torch.Tensor],
    boundary: int,
    window: int | None,
) -> torch.Tensor:
    """What the queries from the boundary on get `[1, Q, T - B, D]`."""
    tokens = layer.query.shape[2]
    at = torch.arange(tokens, device=layer.query.device)
    queries = at[boundary:, None]
    visible = at <= queries
    if window is not None:
        visible &= at > queries - window
    return scaled_dot_product_attention(
        layer.query[:, :, boundary:],
        *cache,
        attn_mask=visible,
        scale=layer.scaling,
        enable_gqa=True,
    )


@contextmanager
def _recording(model: Any) -> Iterator[list[_Seen]]:
    """What every layer attends with during a forward pass, in order."""
    seen: list[_Seen] = []

    def attend(
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        **options: Any,
    ) -> Any:
        seen.append(_Seen(query, key, value, options.get("scaling")))
        return sdpa_attention_forward(module, query, key, value, mask, **options)

    AttentionInterface.register(_RECORDING, attend)
    AttentionMaskInterface.register(_RECORDING, sdpa_mask)
    text = model.config.get_text_config()
    before = text._attn_implementation
    text._attn_implementation = _RECORDING
    try:
        yield seen
    finally:
        text._attn_implementation = before
