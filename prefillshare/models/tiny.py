"""Tiny random models with a byte tokenizer, built in code: for tests and --quick."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    Lfm2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3_5TextConfig,
)

Architecture = Literal["llama", "mistral", "gemma3", "qwen3_5", "lfm2"]

_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_SPECIAL = ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>")


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, four special tokens and a chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate((*_SPECIAL, *alphabet))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(_SPECIAL))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>"
    )
    fast.chat_template = _TEMPLATE
    return fast


def save_tiny_model(
    directory: Path,
    *,
    architecture: Architecture = "llama",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    layers: int = 2,
    hidden: int = 64,
    context_tokens: int = 4096,
    window: int = 16,
) -> Path:
    """Write a random model with grouped-query attention; returns `directory`.

    Args:
        directory: where the model and its tokenizer go.
        architecture: what its layers are. `llama` has full attention, `mistral`
            sliding windows, `gemma3` both in turn; `qwen3_5` has a gated delta rule
            (its recurrence in float32 whatever `dtype` is) and full attention in
            turn, `lfm2` short convolutions and full attention.
        seed: of the weights.
        dtype: of the weights.
        layers: how many; at least 2 for both kinds to occur.
        hidden: width.
        context_tokens: the context window, in tokens.
        window: tokens that a layer with a sliding window sees.
    """
    tokenizer = tiny_tokenizer()
    common: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": context_tokens,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = _CONFIGS[architecture](common, window)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        torch.nn.Module.to(model, dtype)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def _mistral(common: dict[str, Any], window: int) -> PreTrainedConfig:
    return MistralConfig(**common, **_WIDE, sliding_window=window)


def _gemma3(common: dict[str, Any], window: int) -> PreTrainedConfig:
    head_dim = common["hidden_size"] // common["num_attention_heads"]
    return Gemma3TextConfig(
        **common,
        **_WIDE,
        head_dim=head_dim,
        query_pre_attn_scalar=head_dim,
        sliding_window=window,
        layer_types=_in_turn(common, "sliding_attention"),
    )


def _qwen3_5(common: dict[str, Any], _: int) -> PreTrainedConfig:
    head_dim = common["hidden_size"] // common["num_attention_heads"]
    return Qwen3_5TextConfig(
        **common,
        **_WIDE,
        head_dim=head_dim,
        linear_key_head_dim=head_dim,
        linear_value_head_dim=head_dim,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        layer_types=_in_turn(common, "linear_attention"),
    )


def _lfm2(common: dict[str, Any], _: int) -> PreTrainedConfig:
    return Lfm2Config(**common, **_WIDE, layer_types=_in_turn(common, "conv"))


def _in_turn(common: dict[str, Any], kind: str) -> list[str]:
    kinds = (kind, "full_attention")
    return [kinds[i % 2] for i in range(common["num_hidden_layers"])]


# Wide enough weights that what a layer does shows in the logits.
_WIDE: dict[str, Any] = {"initializer_range": 0.1}
_CONFIGS: dict[str, Callable[[dict[str, Any], int], PreTrainedConfig]] = {
    "llama": lambda common, _: LlamaConfig(**common),
    "mistral": _mistral,
    "gemma3": _gemma3,
    "qwen3_5": _qwen3_5,
    "lfm2": _lfm2,
}
