"""The shape of a model's KV cache, and the format in which its blocks travel."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import torch

from prefillshare.errors import UnsupportedModelError
from prefillshare.kv.layers import LayerKV, layers_of

_DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
# Keys made under these depend on the total length, so a prefix is not reusable.
_LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")


@dataclass(frozen=True)
class KVLayout:
    """Per layer, what a prompt leaves in the cache."""

    layers: tuple[LayerKV, ...]

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """The layout of a Hugging Face config.

        Raises:
            UnsupportedModelError: a layer of a kind that cannot be shared (`layers_of`
                says which), or RoPE whose keys depend on the total length.
        """
        text = config.get_text_config()
        _refuse_length_dependent_rope(text)
        return cls(layers_of(text))

    @property
    def attention_layers(self) -> tuple[LayerKV, ...]:
        """The layers that keep keys and values, in order."""
        return tuple(layer for layer in self.layers if layer.kind != "recurrent")

    @property
    def has_recurrent_state(self) -> bool:
        """Whether a cache can be resumed only where it ends, never cut."""
        return any(layer.kind == "recurrent" for layer in self.layers)

    @property
    def requires_equal_rows(self) -> bool:
        """Whether padding between two tokens of a batch's row changes its numbers.

        A recurrent state runs through padding, and a mask that transformers makes
        counts padding into a sliding window. Such a model takes rows of one length,
        or one row at a time; behind a row's last token padding does no harm. Full
        attention alone masks padding anywhere.
        """
        return any(layer.kind != "full_attention" for layer in self.layers)

    @property
    def elements_per_token(self) -> int:
        """Keys and values over all layers that one token leaves."""
        return sum(2 * layer.kv_heads * layer.head_dim for layer in self.layers)

    def bytes_per_token(self, dtype: torch.dtype) -> int:
        """Bytes that every token adds in a model of `dtype`."""
        return self.elements_per_token * dtype.itemsize

    def fixed_bytes(self, dtype: torch.dtype) -> int:
        """Bytes of all recurrent states, however many tokens were read."""
        states = [state for layer in self.layers for state in layer.states]
        return sum(state.nbytes(dtype) for state in states)

    def require_blocks(self) -> None:
        """Raise `UnsupportedModelError` unless blocks of tokens hold the whole cache.

        Serving keeps and moves such blocks.
        """
        recurrent = [i for i, x in enumerate(self.layers) if x.kind == "recurrent"]
        if recurrent:
            raise UnsupportedModelError(
                f"layers {recurrent} keep a recurrent state, which blocks of tokens "
                "cannot hold, so this model cannot be served; serve one whose layers "
                "are all attention, or use PrefillModule with a CheckpointStore in one "
                "process"
            )


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

    def blocks(self, tokens: int) -> int:
        """Blocks that hold `tokens` tokens, the last one possibly partial."""
        return -(-tokens // self.block_tokens)

    def to_dict(self) -> dict[str, Any]:
        """As it is recorded in JSON."""
        return asdict(self)


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
