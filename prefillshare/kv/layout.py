"""The shape of a model's KV cache, and the format in which its blocks travel."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import torch

from prefillshare.errors import UnsupportedModelError

_DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
# Keys made under these depend on the total length, so a prefix is not reusable.
_LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")


@dataclass(frozen=True)
class LayerKV:
    """One layer's cache: `kv_heads` x tokens x `head_dim` keys and as many values."""

    kind: Literal["full_attention"]
    kv_heads: int
    head_dim: int


@dataclass(frozen=True)
class KVLayout:
    """Per layer, what one token leaves in the cache."""

    layers: tuple[LayerKV, ...]

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """The layout of a Hugging Face config.

        Raises:
            UnsupportedModelError: a layer that is not full attention, or RoPE whose
                keys depend on the total length.
        """
        text = config.get_text_config()
        _refuse_length_dependent_rope(text)
        kinds = getattr(text, "layer_types", None) or (
            ["full_attention"] * text.num_hidden_layers
        )
        window = getattr(text, "sliding_window", None)
        if "layer_types" not in text.to_dict() and window:
            kinds = ["sliding_attention"] * text.num_hidden_layers
        foreign = sorted(set(kinds) - {"full_attention"})
        if foreign:
            raise UnsupportedModelError(
                f"layers of kind {foreign} cannot be shared yet; use a model whose "
                "layers are all full_attention"
            )
        heads = text.num_attention_heads
        kv_heads = getattr(text, "num_key_value_heads", None) or heads
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
        layer = LayerKV("full_attention", kv_heads, head_dim)
        return cls((layer,) * text.num_hidden_layers)

    @property
    def elements_per_token(self) -> int:
        """Keys and values over all layers that one token leaves."""
        return sum(2 * layer.kv_heads * layer.head_dim for layer in self.layers)


@dataclass(frozen=True)
class KVFormat:
    """How a block lies in memory and on the wire.

    A block holds `block_tokens` tokens as `[layer][key, value][head][token][dim]`,
    contiguous, in `dtype`.
    """

    dtype: str = "float32"
    block_tokens: int = 16
    encoding: Literal["raw"] = "raw"

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES:
            raise ValueError(f"KV dtype {self.dtype!r} is none of {', '.join(_DTYPES)}")
        if self.block_tokens < 1:
            raise ValueError(f"block_tokens must be >= 1, got {self.block_tokens}")

    @property
    def torch_dtype(self) -> torch.dtype:
        """The element type as torch names it."""
        return _DTYPES[self.dtype]

    def bytes_per_block(self, layout: KVLayout) -> int:
        """Bytes of one block: all layers, keys and values."""
        size = self.torch_dtype.itemsize
        return layout.elements_per_token * self.block_tokens * size

    def slice_bytes(self, layout: KVLayout) -> int:
        """Bytes of one slice: one layer's keys and values of one block."""
        return self.bytes_per_block(layout) // len(layout.layers)

    def blocks(self, tokens: int) -> int:
        """Blocks that hold `tokens` tokens, the last one possibly partial."""
        return -(-tokens // self.block_tokens)

    def to_dict(self) -> dict[str, Any]:
        """As it is recorded in JSON."""
        return asdict(self)


def dtype_name(dtype: torch.dtype) -> str:
    """`torch.float32` -> `"float32"`."""
    return str(dtype).removeprefix("torch.")


def _refuse_length_dependent_rope(text: Any) -> None:
    parameters = getattr(text, "rope_parameters", None) or {}
    # Models with several kinds of layers keep one mapping per kind.
    nested = [p for p in parameters.values() if isinstance(p, dict)]
    for rope in nested or [parameters]:
        kind = rope.get("rope_type", "default")
        if kind in _LENGTH_DEPENDENT_ROPE:
            raise UnsupportedModelError(
                f"RoPE of type {kind!r} makes keys that depend on the total length, so "
                "a cached prefix would be wrong; pin the model to a fixed RoPE scaling"
            )
