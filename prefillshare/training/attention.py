"""Attention over a packed row, piece by piece.

A packed row's mask is mostly empty: a piece sees its own branch of the prefix tree and
nothing of the others. A dense kernel computes those empty parts too, four times the
work for four independent prompts. Here every piece attends to the keys that it sees
and to no others, so the work is what the single prompts would take; all other layers
still run over the whole row, without padding.

Shapes: T tokens of the row, K keys, H heads, G key/value heads, D head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from prefillshare.training.packing import Row, Span
from prefillshare.training.precision import in_full_precision

PACKED = "prefillshare_packed"
DENSE = "prefillshare_dense"
# Below this saving, one dense call beats a loop of small ones.
_WORTH_IT = 1.5
# What it takes to start a GPU's kernels for one piece, in pairs of query and key that
# it computes meanwhile: an estimate, not measured, of 50 us at 15 TFLOP/s and nine
# heads of 64.
_GPU_START = 300_000
# What transformers' own function has to see to.
_SPECIAL = ("position_bias", "softcap", "cache")


@dataclass(frozen=True)
class Reach:
    """Which keys the queries of one piece see.

    `stretches` are the numbers of those of `PackedMask.stretches` that hold its keys;
    `visible` `[s, k]` is over these, or None: the keys are the queries' own and each
    sees those up to itself, for which there is a faster kernel.
    """

    stretches: tuple[int, ...]
    visible: torch.Tensor | None


class PackedMask(torch.Tensor):
    """A dense mask `[1, 1, T, K]`, bool, that also knows the pieces of its row.

    Whatever a model does with it other than handing it on (slicing it, say) leaves
    an ordinary mask with the same meaning.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    # How many queries each piece has, into which lengths the K keys are cut, and what
    # each piece sees.
    pieces: list[int]
    stretches: list[int]
    reaches: tuple[Reach, ...]


def packed_mask(
    visible: torch.Tensor, row: Row, past: int, worth_it: float = _WORTH_IT
) -> torch.Tensor:
    """`visible` `[T, K]` of `row` behind `past` tokens, as `[1, 1, T, K]`.

    It is a `PackedMask` if the dense mask takes `worth_it` times the work of going
    piece by piece.
    """
    dense = visible[None, None]
    tokens, keys = visible.shape
    starts = 0 if visible.device.type == "cpu" else len(row.pieces) * _GPU_START
    if (_pieces_work(row) + starts) * worth_it > tokens * keys:
        return dense
    mask = dense.as_subclass(PackedMask)
    mask.pieces = [len(piece.ids) for piece in row.pieces]
    cuts = _cuts(row, past)
    mask.stretches = [high - low for low, high in pairwise(cuts)]
    mask.reaches = tuple(
        _reach(visible, span, piece.sees, past, cuts)
        for piece, span in zip(row.pieces, row.spans(), strict=True)
    )
    return mask


def use_packed_attention(config: Any) -> None:
    """Let a model that uses torch's attention understand `PackedMask`.

    With any other mask it computes what it did before.
    """
    if config._attn_implementation == "sdpa":
        _use(config, PACKED)


def use_dense_attention(config: Any) -> None:
    """Keep a model that uses torch's attention from being given a `PackedMask`."""
    if config._attn_implementation in ("sdpa", PACKED):
        _use(config, DENSE)


def _use(config: Any, name: str) -> None:
    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, sdpa_mask)
    config._attn_implementation = name


def _pieces_work(row: Row) -> float:
    """Pairs of query and key that are computed piece by piece."""
    work = 0.0
    for piece in row.pieces:
        own, seen = len(piece.ids), sum(high - low for low, high in piece.sees)
        work += own * (own + seen if seen else own / 2)
    return work


def _cuts(row: Row, past: int) -> list[int]:
    """Where anything that a piece sees begins or ends, and where the keys do."""
    seen = {at for piece in row.pieces for span in piece.sees for at in span}
    own = {past + at for span in row.spans() for at in span}
    return sorted({0, *seen, *own})


def _reach(
    visible: torch.Tensor,
    span: Span,
    sees: tuple[Span, ...],
    past: int,
    cuts: list[int],
) -> Reach:
    start, stop = span
    spans = (*sees, (past + start, past + stop))
    stretches = tuple(
        number
        for low, high in spans
        for number in range(cuts.index(low), cuts.index(high))
    )
    if not sees:
        return Reach(stretches, None)
    parts = [visible[start:stop, low:high] for low, high in spans]
    return Reach(stretches, torch.cat(parts, 1)[None, None])


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of `query` `[1, H, T, D]` in the form that transformers calls it."""
    biased = options.get("position_bias") is not None
    packed = None if biased else attention_mask

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        if isinstance(packed, PackedMask):
            return _by_pieces(module, q, k, v, packed, **options)
        return _call(module, q, k, v, attention_mask, **options)

    return in_full_precision(attention, query, key, value), None


def _by_pieces(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: PackedMask,
    **options: Any,
) -> torch.Tensor:
    # Split once: the gradient of a slice is as long as what it was cut from.
    queries = _split(query, mask.pieces)
    keys = _split(key, mask.stretches)
    values = _split(value, mask.stretches)
    parts = []
    for piece, reach in zip(queries, mask.reaches, strict=True):
        own_keys = torch.cat([keys[i] for i in reach.stretches], dim=2)
        own_values = torch.cat([values[i] for i in reach.stretches], dim=2)
        parts.append(
            _call(module, piece, own_keys, own_values, reach.visible, **options)
        )
    return torch.cat(parts, dim=1)


def _split(states: torch.Tensor, lengths: list[int]) -> Sequence[torch.Tensor]:
    parts: Sequence[torch.Tensor] = torch.split(states, lengths, dim=2)
    return parts


def _call(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    **options: Any,
) -> torch.Tensor:
    """Torch's attention, `[1, T, H, D]`."""
    special = any(options.get(name) is not None for name in _SPECIAL)
    if mask is None or special or query.device.type != "cpu":
        output, _ = sdpa_attention_forward(module, query, key, value, mask, **options)
        return output
    # With a mask, transformers repeats keys and values for all heads, and autograd
    # keeps the copies. The CPU kernel reads grouped heads as they are.
    output = scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=options.get("dropout", 0.0),
        scale=options.get("scaling"),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output.transpose(1, 2).contiguous()
