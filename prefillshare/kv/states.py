"""The state of recurrent layers, copied wherever it changes hands.

transformers updates such a state in place. A snapshot therefore never shares memory
with a cache that a model runs on.

Shapes: C channels, K convolution kernel, H heads, D key and E value dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from transformers.cache_utils import LinearAttentionLayer


@dataclass(frozen=True)
class RecurrentState:
    """One recurrent layer's state after some tokens of one prompt.

    Attributes:
        layer: which layer of the model.
        conv: the last inputs of its convolution `[C, K]`.
        recurrent: its linear recurrence `[H, D, E]`, if it has one.
    """

    layer: int
    conv: torch.Tensor
    recurrent: torch.Tensor | None = None

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All tensors that it consists of."""
        return (self.conv,) if self.recurrent is None else (self.conv, self.recurrent)


class StateLayer(LinearAttentionLayer):
    """A layer of a transformers cache that can be differentiated through.

    Its recurrence takes a new state instead of writing over the one that went into
    the computation. The convolution's inputs are written over: joining them to the
    next ones copies them first.
    """

    conv_states: dict[int, Any]
    recurrent_states: dict[int, Any]
    conv_kernel_size: dict[int, Any]
    dtype: Any
    device: Any

    @classmethod
    def of(cls, state: RecurrentState, rows: int) -> Self:
        """A layer of `rows` equal rows that continues from a copy of `state`."""
        layer = cls()
        layer.dtype, layer.device = state.conv.dtype, state.conv.device
        layer.conv_states[0] = _rows(state.conv, rows)
        layer.conv_kernel_size[0] = state.conv.shape[-1]
        layer.is_conv_states_initialized[0] = layer.has_previous_state[0] = True
        if state.recurrent is not None:
            layer.recurrent_states[0] = _rows(state.recurrent, rows)
            layer.is_recurrent_states_initialized[0] = True
        return layer

    def snapshot(self, index: int, row: int) -> RecurrentState:
        """A copy of row `row`'s state; the layer is the model's `index`-th."""
        recurrent = self.recurrent_states[0]
        return RecurrentState(
            index,
            self.conv_states[0][row].clone(),
            recurrent[row].clone() if recurrent is not None else None,
        )

    def update_recurrent_state(
        self, recurrent_states: torch.Tensor, state_idx: int = 0, **_: Any
    ) -> torch.Tensor:
        """Take the new state of all rows `[rows, H, D, E]`."""
        self.recurrent_states[state_idx] = recurrent_states
        self.is_recurrent_states_initialized[state_idx] = True
        return recurrent_states

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row `repeats` times, as the attention layers can."""
        for states in (self.conv_states, self.recurrent_states):
            for i, state in states.items():
                if state is not None:
                    states[i] = state.repeat_interleave(repeats, dim=0)


def _rows(state: torch.Tensor, rows: int) -> torch.Tensor:
    return state[None].repeat(rows, *[1] * state.ndim)
