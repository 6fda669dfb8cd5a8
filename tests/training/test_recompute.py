"""Recomputed layers of a family that scales its embeddings."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, GraniteConfig

from prefillshare.models.loading import freeze
from prefillshare.training.packing import pack
from prefillshare.training.schemes.base import score
from prefillshare.training.schemes.cached import Cached
from prefillshare.training.schemes.recompute import Recompute
from tests.training.examples import group


def test_a_hidden_state_is_not_scaled_as_embeddings_are() -> None:
    """The base recomputes its own layers: whichever they are, nothing changes."""
    config = GraniteConfig(
        vocab_size=260,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        embedding_multiplier=12.0,
        initializer_range=0.15,
        dtype=torch.float64,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = freeze(AutoModelForCausalLM.from_config(config))
    packed = pack(group("shared_context"))
    with torch.no_grad():
        wanted = score(Cached(base), base, packed).logits
        # Norms hide the scale from the first recomputed layer, not from the second.
        for first, last in [(0, 2), (1, 3)]:
            found = score(Recompute(base, first, last), base, packed).logits
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
