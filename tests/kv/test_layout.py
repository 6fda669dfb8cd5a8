"""What a layout says of a model, and which models it refuses by name."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    DeepseekV3Config,
    Gemma3nTextConfig,
    Gemma3TextConfig,
    Gemma4TextConfig,
    JambaConfig,
    Lfm2Config,
    Llama4TextConfig,
    LlamaConfig,
    MambaConfig,
    MiMoV2FlashConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
)

from prefillshare.errors import UnsupportedModelError
from prefillshare.kv.layout import KVFormat, KVLayout
from prefillshare.models.tiny import Architecture
from tests.architectures import HYBRID, SLIDING, WINDOW, tiny


def layout_of(architecture: Architecture) -> KVLayout:
    return KVLayout.from_config(tiny(architecture).model.config)


@pytest.mark.parametrize(
    ("architecture", "kinds"),
    [
        ("llama", ["full_attention", "full_attention"]),
        ("mistral", ["sliding_attention", "sliding_attention"]),
        ("gemma3", ["sliding_attention", "full_attention"]),
        ("qwen3_5", ["recurrent", "full_attention"]),
        ("lfm2", ["recurrent", "full_attention"]),
    ],
)
def test_every_layer_has_its_kind(architecture: Architecture, kinds: list[str]) -> None:
    layout = layout_of(architecture)
    assert [layer.kind for layer in layout.layers] == kinds
    assert layout.has_recurrent_state == ("recurrent" in kinds)
    assert layout.requires_equal_rows == (architecture != "llama")


@pytest.mark.parametrize("architecture", SLIDING)
def test_a_sliding_layer_has_its_window_and_keeps_every_token(
    architecture: Architecture,
) -> None:
    layout = layout_of(architecture)
    windows = {layer.kind: layer.window for layer in layout.layers}
    assert windows["sliding_attention"] == WINDOW
    assert windows.get("full_attention") is None
    # Two layers of keys and values, 2 heads of 64 / 4 each, in both models.
    assert layout.bytes_per_token(torch.float32) == 2 * 2 * 2 * 16 * 4
    assert layout.fixed_bytes(torch.float32) == 0


def test_a_window_that_is_switched_off_is_full_attention() -> None:
    mistral = KVLayout.from_config(MistralConfig(sliding_window=None))
    assert {layer.kind for layer in mistral.layers} == {"full_attention"}
    qwen = KVLayout.from_config(Qwen2Config(use_sliding_window=False))
    assert {layer.kind for layer in qwen.layers} == {"full_attention"}


def test_gemma_270m_has_five_windows_to_one_full_layer() -> None:
    config = Gemma3TextConfig(num_hidden_layers=18, sliding_window=512)
    kinds = [layer.kind for layer in KVLayout.from_config(config).layers]
    assert kinds == (["sliding_attention"] * 5 + ["full_attention"]) * 3


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (DeepseekV3Config(), "mla_latent.*deepseek_v3"),
        (JambaConfig(), "linear_attention.*jamba.*lfm2"),
        (MambaConfig(), "linear_attention.*mamba"),
        (Llama4TextConfig(), "chunked_attention"),
        (Gemma3nTextConfig(), "shared_kv"),
        (Gemma4TextConfig(num_kv_shared_layers=0), "gemma4_text.*unlike sizes"),
        (MiMoV2FlashConfig(), "mimo_v2_flash.*unlike sizes"),
        (
            Lfm2Config(num_hidden_layers=2, layer_types=["conv", "conv"]),
            "all 2 layers.*recurrent.*at least one attention layer",
        ),
        (
            LlamaConfig(rope_parameters={"rope_type": "dynamic", "factor": 2.0}),
            "'dynamic'.*total length",
        ),
    ],
)
def test_other_models_are_refused_by_name(config: PreTrainedConfig, named: str) -> None:
    with pytest.raises(UnsupportedModelError, match=named):
        KVLayout.from_config(config)


@pytest.mark.parametrize("architecture", HYBRID)
def test_blocks_refuse_a_recurrent_state(architecture: Architecture) -> None:
    with pytest.raises(UnsupportedModelError, match=r"layers \[0\].*CheckpointStore"):
        layout_of(architecture).require_blocks()


@pytest.mark.parametrize("architecture", ["llama", *SLIDING])
def test_blocks_take_a_window(architecture: Architecture) -> None:
    layout = layout_of(architecture)
    layout.require_blocks()
    form = KVFormat("float32", 16)
    assert form.bytes_per_block(layout) == 16 * layout.bytes_per_token(torch.float32)
