"""What each layer of a model keeps of the tokens that it has read.

Attention layers keep keys and values of every token. A layer with a sliding window
does too here, and its mask applies the window: a cache that was trimmed to the window
could not serve as the prefix of a prompt that branches off earlier. Recurrent layers
keep a state of fixed size instead, which no token can be taken out of again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch

from prefillshare.errors import UnsupportedModelError

Kind = Literal["full_attention", "sliding_attention", "recurrent"]


@dataclass(frozen=True)
class StateShape:
    """One tensor of a recurrent layer's state, for one prompt.

    Attributes:
        shape: `[channels, kernel]` of a convolution's last inputs, or
            `[heads, key dimension, value dimension]` of a linear recurrence.
        dtype: None for the model's own.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype | None = None

    def nbytes(self, dtype: torch.dtype) -> int:
        """Bytes in a model of `dtype`."""
        return math.prod(self.shape) * (self.dtype or dtype).itemsize


@dataclass(frozen=True)
class LayerKV:
    """One layer's cache.

    An attention layer has `kv_heads` x tokens x `head_dim` keys and as many values,
    a recurrent one `states`. `window` counts the tokens that a sliding layer sees,
    its own among them; None for the other kinds.
    """

    kind: Kind
    kv_heads: int = 0
    head_dim: int = 0
    window: int | None = None
    states: tuple[StateShape, ...] = ()


def layers_of(text: Any) -> tuple[LayerKV, ...]:
    """What each layer of a Hugging Face text config keeps.

    Raises:
        UnsupportedModelError: a layer of another kind, recurrent layers of a family
            whose chunks were not proven to continue exactly, no attention layer at
            all, or heads of unlike sizes.
    """
    if getattr(text, "is_heterogeneous", False):
        raise _unlike_sizes(text)
    kinds = _kinds(text)
    _refuse_foreign(text, kinds)
    sizes = (getattr(text, name, None) for name in ("v_head_dim", "swa_head_dim"))
    if any(size not in (None, _head_dim(text)) for size in sizes):
        raise _unlike_sizes(text)
    kv_heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    made = {
        "full_attention": lambda: LayerKV("full_attention", kv_heads, _head_dim(text)),
        "sliding_attention": lambda: LayerKV(
            "sliding_attention", kv_heads, _head_dim(text), int(text.sliding_window)
        ),
        "recurrent": lambda: LayerKV(
            "recurrent", states=_STATES[text.model_type](text)
        ),
    }
    return tuple(made[cast(Kind, kind)]() for kind in kinds)


def _kinds(text: Any) -> list[str]:
    """The kind of each layer: one of `Kind`, or another name, which is refused."""
    window = getattr(text, "sliding_window", None)
    default = "sliding_attention" if window else "full_attention"
    given = getattr(text, "layer_types", None) or [default] * text.num_hidden_layers
    known = text.model_type in _STATES
    ours = {"linear_attention": "recurrent", "conv": "recurrent"} if known else {}
    if getattr(text, "kv_lora_rank", None):
        ours["full_attention"] = "mla_latent"
    kinds = [ours.get(kind, kind) for kind in given]
    borrowed = getattr(text, "num_kv_shared_layers", None) or 0
    return kinds[: len(kinds) - borrowed] + ["shared_kv"] * borrowed


def _refuse_foreign(text: Any, kinds: list[str]) -> None:
    known = {"full_attention", "sliding_attention", "recurrent"}
    foreign = sorted(set(kinds) - known)
    if foreign:
        raise UnsupportedModelError(
            f"layers of kind {foreign} of model type {text.model_type!r} cannot be "
            "shared; use a model whose layers are full or sliding attention, or a "
            f"hybrid of type {', '.join(sorted(_STATES))}"
        )
    if set(kinds) == {"recurrent"}:
        raise UnsupportedModelError(
            f"all {len(kinds)} layers of model type {text.model_type!r} are recurrent, "
            "so its cache does not say how many tokens it covers; use a hybrid with at "
            "least one attention layer"
        )


def _unlike_sizes(text: Any) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"layers or heads of model type {text.model_type!r} are of unlike sizes; use a "
        "model whose keys and values all have one size"
    )


def _head_dim(text: Any) -> int:
    dim = getattr(text, "head_dim", None)
    return int(dim or text.hidden_size // text.num_attention_heads)


def _gated_delta(text: Any) -> tuple[StateShape, ...]:
    """Gated DeltaNet (arXiv 2412.06464), its state always in float32."""
    heads, key_dim = text.linear_num_value_heads, text.linear_key_head_dim
    channels = 2 * text.linear_num_key_heads * key_dim
    channels += heads * text.linear_value_head_dim
    recurrent = (heads, key_dim, text.linear_value_head_dim)
    return (
        StateShape((channels, text.linear_conv_kernel_dim)),
        StateShape(recurrent, torch.float32),
    )


def _mamba2(text: Any) -> tuple[StateShape, ...]:
    """Mamba-2 (arXiv 2405.21060), its state always in float32."""
    channels = text.mamba_expand * text.hidden_size
    channels += 2 * text.mamba_n_groups * text.mamba_d_state
    recurrent = (text.mamba_n_heads, text.mamba_d_head, text.mamba_d_state)
    return (
        StateShape((channels, text.mamba_d_conv)),
        StateShape(recurrent, torch.float32),
    )


def _short_convolution(text: Any) -> tuple[StateShape, ...]:
    """A gated convolution over the last few tokens (LFM2)."""
    return (StateShape((text.hidden_size, text.conv_L_cache)),)


# The families whose chunks continue from a state exactly. Other implementations start
# over when more than one token follows a state (Jamba), or keep the state in the
# modules (RecurrentGemma) or in a cache class of their own (MiniMax).
_STATES: dict[str, Callable[[Any], tuple[StateShape, ...]]] = {
    "qwen3_next": _gated_delta,
    "qwen3_5_text": _gated_delta,
    "olmo_hybrid": _gated_delta,
    "granitemoehybrid": _mamba2,
    "lfm2": _short_convolution,
}
RECURRENT_MODEL_TYPES = tuple(sorted(_STATES))
