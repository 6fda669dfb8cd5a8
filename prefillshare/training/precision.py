"""Attention in full precision where other products may be coarser.

With `torch.set_float32_matmul_precision("medium")` the CPU's attention kernel hands
each of its small products to oneDNN, whose set-up takes longer than the product:
forward and backward of 80 tokens and 9 heads took 9 ms in place of 0.8 ms, of 420
tokens 49 ms in place of 31 ms (torch 2.13, one core with AMX). The large products of
linear layers are what the setting is for, and they keep it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def in_full_precision(
    attention: Attention,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
) -> torch.Tensor:
    """`attention(query, key, value)`, forward and backward in "highest"."""
    if query.device.type != "cpu" or torch.compiler.is_compiling():
        return attention(query, key, value)
    usual = torch.get_float32_matmul_precision()
    if usual == "highest":
        return attention(query, key, value)
    # Backward runs the other way: it enters at the output and leaves at the inputs.
    query, key, value = _set_in_backward(usual, query, key, value)
    torch.set_float32_matmul_precision("highest")
    try:
        output = attention(query, key, value)
    finally:
        torch.set_float32_matmul_precision(usual)
    return _set_in_backward("highest", output)[0]


def _set_in_backward(
    precision: str, *tensors: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    handed: tuple[torch.Tensor, ...] = _SetInBackward.apply(  # type: ignore[no-untyped-call]
        precision, *tensors
    )
    return handed


class _SetInBackward(torch.autograd.Function):
    """Hands tensors on; sets the precision when their gradients pass."""

    @staticmethod
    def forward(
        ctx: Any, precision: str, *tensors: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        ctx.precision = precision
        handed = tuple(tensor.view_as(tensor) for tensor in tensors)
        wanted = zip(handed, ctx.needs_input_grad[1:], strict=True)
        ctx.mark_non_differentiable(*(each for each, needed in wanted if not needed))
        return handed

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        torch.set_float32_matmul_precision(ctx.precision)
        return None, *gradients
