"""Attention-output cosine: 1 on the decoder's own cache, less on another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from prefillshare.models.bridge.health import attention_cosine
from prefillshare.models.loading import load_model
from prefillshare.models.prefill import PrefillModule
from prefillshare.models.tiny import Architecture, save_tiny_model

IDS = list(range(10, 50))


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma3"])
def test_it_tells_the_own_cache_from_others(
    architecture: Architecture, tmp_path: Path
) -> None:
    directory = save_tiny_model(
        tmp_path, architecture=architecture, dtype=torch.float64
    )
    model = load_model(directory, torch.float64)
    before = model.config.get_text_config()._attn_implementation
    cache = PrefillModule(model).prefill(IDS[:30])
    own = tuple((k[None], v[None]) for k, v in cache.layers)
    found = attention_cosine(model, IDS, own)
    assert found.shape == (2, 4)
    torch.testing.assert_close(found, torch.ones_like(found), rtol=0, atol=1e-5)
    # Only the second layer's values are wrong.
    keys, values = own[1]
    spoilt = attention_cosine(model, IDS, (own[0], (keys, torch.randn_like(values))))
    torch.testing.assert_close(spoilt[0], found[0])
    assert (spoilt[1] < 0.9).all()
    assert model.config.get_text_config()._attn_implementation == before


def test_what_a_window_hides_makes_no_difference(tmp_path: Path) -> None:
    directory = save_tiny_model(
        tmp_path, architecture="mistral", dtype=torch.float64, window=4
    )
    model = load_model(directory, torch.float64)
    cache = PrefillModule(model).prefill(IDS[:30])
    hidden = tuple(
        (k[None], torch.cat([torch.zeros_like(v[:, :26]), v[:, 26:]], 1)[None])
        for k, v in cache.layers
    )
    found = attention_cosine(model, IDS, hidden)
    torch.testing.assert_close(found, torch.ones_like(found), rtol=0, atol=1e-5)
