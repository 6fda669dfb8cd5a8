"""Positions out of keys and in again, as two families of models have them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import PreTrainedModel

from prefillshare.errors import UnsupportedModelError
from prefillshare.models.bridge.rotary import Rotary, rotaries_of
from prefillshare.models.loading import load_model
from prefillshare.models.prefill import PrefillModule
from prefillshare.models.tiny import Architecture, save_tiny_model

POSITIONS = torch.tensor([0, 1, 5, 700, 3000])


@pytest.mark.parametrize("scaling", [1.0, 1.7])
@pytest.mark.parametrize("count", [4, 8])
def test_the_inverse_is_exact(count: int, scaling: float) -> None:
    """With 4 of 8 pairs of dimensions turned, the rest stays as it is."""
    rotary = Rotary(torch.logspace(0, -3, count), scaling)
    keys = torch.randn(3, 5, 16, dtype=torch.float64)
    turned = rotary.rotate(keys, POSITIONS)
    assert torch.equal(turned[..., 2 * count :], keys[..., 2 * count :])
    assert not torch.allclose(turned[:, 1:, : 2 * count], keys[:, 1:, : 2 * count])
    back = rotary.unrotate(turned, POSITIONS)
    torch.testing.assert_close(back, keys, rtol=0, atol=1e-14)


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_what_is_taken_out_is_what_the_model_put_in(
    architecture: Architecture, tmp_path: Path
) -> None:
    """In the first layer, one token has one key, wherever it stands."""
    directory = save_tiny_model(
        tmp_path, architecture=architecture, dtype=torch.float64
    )
    model = load_model(directory, torch.float64)
    cache = PrefillModule(model).prefill([7, 9, 7, 7, 9])
    keys, _ = cache.layers[0]
    assert not torch.allclose(keys[:, 0], keys[:, 2])
    plain = rotaries_of(model)[0].unrotate(keys, torch.arange(5))
    torch.testing.assert_close(plain[:, 2], plain[:, 0], rtol=0, atol=1e-12)
    torch.testing.assert_close(plain[:, 4], plain[:, 1], rtol=0, atol=1e-12)


def test_kinds_of_layers_have_frequencies_of_their_own(tmp_path: Path) -> None:
    directory = save_tiny_model(tmp_path, architecture="gemma3")
    sliding, full = rotaries_of(load_model(directory, torch.float32))
    assert not torch.equal(sliding.frequencies, full.frequencies)


def test_a_model_without_rotary_positions_is_refused(
    tiny_model: PreTrainedModel,
) -> None:
    plain = SimpleNamespace(config=tiny_model.config, base_model=SimpleNamespace())
    with pytest.raises(UnsupportedModelError, match="has no rotary embedding"):
        rotaries_of(plain)
