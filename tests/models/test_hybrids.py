"""Each hybrid family that a layout admits: its state's size, and exact chunks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GraniteMoeHybridConfig,
    Lfm2Config,
    OlmoHybridConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3_5TextConfig,
    Qwen3NextConfig,
)

from prefillshare.kv.layers import RECURRENT_MODEL_TYPES
from prefillshare.models.loading import freeze
from prefillshare.models.prefill import PrefillModule
from tests.architectures import TOKENS, assert_close, tensors
from tests.architectures import one_thread as one_thread

pytestmark = pytest.mark.usefixtures("one_thread")
COMMON: dict[str, Any] = {
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.15,
    "bos_token_id": None,
    "pad_token_id": 0,
    "eos_token_id": 0,
}
LINEAR: dict[str, Any] = {
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 6,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "layer_types": ["linear_attention", "full_attention"],
}
CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "qwen3_next": lambda: Qwen3NextConfig(
        **COMMON,
        **LINEAR,
        head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
    ),
    "qwen3_5_text": lambda: Qwen3_5TextConfig(**COMMON, **LINEAR, head_dim=8),
    "olmo_hybrid": lambda: OlmoHybridConfig(
        **COMMON, **{**LINEAR, "linear_num_key_heads": 4}
    ),
    "lfm2": lambda: Lfm2Config(**COMMON, layer_types=["conv", "full_attention"]),
    "granitemoehybrid": lambda: GraniteMoeHybridConfig(
        **COMMON,
        layer_types=["mamba", "attention"],
        num_local_experts=0,
        shared_intermediate_size=32,
        mamba_n_heads=4,
        mamba_d_head=16,
        mamba_n_groups=1,
        mamba_d_state=8,
        mamba_chunk_size=16,
    ),
}


def model_of(family: str) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(CONFIGS[family]())
    return freeze(model)


def test_no_family_goes_untested() -> None:
    assert set(CONFIGS) == set(RECURRENT_MODEL_TYPES)


@pytest.mark.parametrize("family", RECURRENT_MODEL_TYPES)
def test_chunks_continue_exactly_and_the_layout_knows_every_byte(family: str) -> None:
    model = model_of(family)
    module = PrefillModule(model)
    whole = module.prefill(TOKENS)
    for chunk in (1, 2, 20):
        chunked = PrefillModule(model, chunk_tokens=chunk).prefill(TOKENS)
        assert_close(chunked, whole, 1e-4)
    forgetful = module.prefill(TOKENS[20:])
    differences = [
        (mine - theirs).abs().max()
        for mine, theirs in zip(
            tensors(whole.slice(20, len(TOKENS))), tensors(forgetful), strict=True
        )
    ]
    assert max(differences) > 1e-2
    layout = module.layout
    assert [state.layer for state in whole.states] == [0]
    assert whole.nbytes == layout.fixed_bytes(torch.float32) + len(
        TOKENS
    ) * layout.bytes_per_token(torch.float32)
