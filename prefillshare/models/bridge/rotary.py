"""Rotary positions, taken out of keys and put in again.

A key stands in the cache turned by its position, in each model by its own frequencies.
What a bridge maps is the key before that.

Shapes: H kv heads, T tokens, D head dimension, F frequencies (2 F <= D).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from prefillshare.errors import UnsupportedModelError

# Families that turn dimensions d and F + d of every layer's keys. Others pair 2 d with
# 2 d + 1 (Cohere, GLM), or leave layers without positions (SmolLM3, Llama 4).
_HALVES = frozenset(
    {"gemma", "gemma2", "gemma3", "gemma3_text", "llama", "mistral", "phi3", "qwen2"}
    | {"qwen3", "olmo2", "starcoder2"}
)


@dataclass(frozen=True)
class Rotary:
    """How one layer turns keys: dimensions d and F + d by `position * frequencies[d]`.

    Attributes:
        frequencies: in radians per token `[F]`; dimensions from 2 F on are not turned.
        scaling: by which the turned dimensions are also multiplied.
    """

    frequencies: torch.Tensor
    scaling: float = 1.0

    def rotate(self, keys: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Keys `[H, T, D]` as they stand in the cache at `positions` `[T]`."""
        cos, sin = self._angles(positions, keys.dtype)
        return self._turn(keys, self.scaling * cos, self.scaling * sin)

    def unrotate(self, keys: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Cached keys `[H, T, D]` without their positions `[T]`."""
        cos, sin = self._angles(positions, keys.dtype)
        # Rounded, cos and sin are no exact rotation: its inverse has to know that.
        size = self.scaling * (cos * cos + sin * sin)
        return self._turn(keys, cos / size, -sin / size)

    def _angles(
        self, positions: torch.Tensor, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # In single precision, as the models of transformers compute them.
        frequencies = self.frequencies.to(positions.device, torch.float32)
        angles_TF = positions.float()[:, None] * frequencies  # noqa: N806
        return angles_TF.cos().to(dtype), angles_TF.sin().to(dtype)

    def _turn(
        self, keys: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> torch.Tensor:
        count = self.frequencies.shape[0]
        first, second = keys[..., :count], keys[..., count : 2 * count]
        rest = keys[..., 2 * count :]
        turned = (first * cos - second * sin, second * cos + first * sin)
        return torch.cat([*turned, rest], dim=-1)


def rotaries_of(model: Any) -> tuple[Rotary, ...]:
    """Of every layer of a causal language model of transformers, in order.

    Raises:
        UnsupportedModelError: it has no rotary embedding in transformers' form, or is
            not known to turn all keys of all layers as `Rotary` does.
    """
    text = model.config.get_text_config()
    if text.model_type not in _HALVES:
        raise UnsupportedModelError(
            f"model type {text.model_type!r} is not known to turn its keys by halves "
            f"in every layer, so a bridge cannot take positions out of them; known are "
            f"{', '.join(sorted(_HALVES))}"
        )
    module = getattr(model.base_model, "rotary_emb", None)
    kinds = getattr(text, "layer_types", None) or [None] * text.num_hidden_layers
    # Models whose kinds of layers turn keys differently keep a table for each kind.
    prefixes = [
        f"{kind}_" if hasattr(module, f"{kind}_inv_freq") else "" for kind in kinds
    ]
    if module is None or not all(hasattr(module, f"{p}inv_freq") for p in prefixes):
        raise UnsupportedModelError(
            f"model type {text.model_type!r} has no rotary embedding that can be taken "
            "out of its keys; bridge models with RoPE"
        )
    return tuple(
        Rotary(
            getattr(module, f"{prefix}inv_freq").detach().clone(),
            float(getattr(module, f"{prefix}attention_scaling")),
        )
        for prefix in prefixes
    )
