"""Caches with recurrent states: what can be cut, joined and copied."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from prefillshare.errors import UnsupportedModelError
from prefillshare.kv.cache import KVCache, empty_state
from prefillshare.kv.layout import KVLayout
from prefillshare.kv.states import RecurrentState, StateLayer
from prefillshare.models.prefill import PrefillModule
from prefillshare.models.tiny import Architecture
from tests.architectures import HYBRID, TOKENS, WINDOW, assert_close, tensors, tiny
from tests.architectures import one_thread as one_thread

pytestmark = pytest.mark.usefixtures("one_thread")


def hybrid_cache(tokens: int) -> KVCache:
    """Layer 0 of the model is recurrent, layers 1 and 2 attend."""
    layers = tuple((torch.rand(2, tokens, 4), torch.rand(2, tokens, 4)) for _ in "12")
    state = RecurrentState(0, torch.rand(6, 3), torch.rand(2, 4, 5))
    return KVCache(layers, (state,))


def test_a_state_cannot_be_cut() -> None:
    cache = hybrid_cache(9)
    with pytest.raises(
        UnsupportedModelError, match="9 tokens.*1 recurrent layers.*after 4.*checkpoint"
    ):
        cache.slice(0, 4)


def test_what_leads_to_the_state_keeps_it_and_nothing_has_none() -> None:
    cache = hybrid_cache(9)
    tail = cache.slice(4, 9)
    assert tail.tokens == 5
    assert tail.states == cache.states
    assert cache.slice(0, 0).states == ()


def test_joined_stretches_end_in_the_last_state() -> None:
    first, second = hybrid_cache(4), hybrid_cache(3)
    joined = KVCache.concatenate([first, second])
    assert joined.tokens == 7
    assert joined.states == second.states


def test_all_bytes_count() -> None:
    cache = hybrid_cache(9)
    assert cache.nbytes == 4 * (2 * 2 * 2 * 9 * 4 + 6 * 3 + 2 * 4 * 5)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_transformers_cache_gets_every_layer_in_its_place(rows: int) -> None:
    cache = hybrid_cache(9)
    state = cache.to_transformers(rows)
    assert [isinstance(layer, StateLayer) for layer in state.layers] == [
        True, False, False,
    ]  # fmt: skip
    assert state.get_seq_length() == 9
    for row in range(rows):
        assert_close(KVCache.from_transformers(state, row), cache, band=0.0)


def test_a_model_that_writes_in_place_does_not_reach_the_cache() -> None:
    cache = hybrid_cache(9)
    before = [tensor.clone() for tensor in tensors(cache)]
    running = cache.to_transformers()
    snapshot = KVCache.from_transformers(running)
    layer = running.layers[0]
    assert isinstance(layer, StateLayer)
    layer.conv_states[0].zero_()
    layer.recurrent_states[0].zero_()
    for held in (cache, snapshot):
        torch.testing.assert_close(tensors(held), before, rtol=0, atol=0)


@pytest.mark.parametrize("architecture", HYBRID)
def test_rows_are_repeated_in_every_layer(architecture: Architecture) -> None:
    model = tiny(architecture).model
    state = empty_state(KVLayout.from_config(model.config))
    with torch.no_grad():
        model(torch.tensor([TOKENS[:9]]), past_key_values=state, use_cache=True)
    state.batch_repeat_interleave(3)
    expected = PrefillModule(model).prefill(TOKENS[:9])
    for row in range(3):
        assert_close(KVCache.from_transformers(state, row), expected, band=0.0)


def test_a_cache_that_forgot_tokens_is_refused() -> None:
    model = tiny("mistral").model
    trimmed = DynamicCache(config=model.config)
    with torch.no_grad():
        model(torch.tensor([TOKENS]), past_key_values=trimmed, use_cache=True)
    with pytest.raises(ValueError, match=f"{WINDOW - 1} of its 53 tokens.*empty_state"):
        KVCache.from_transformers(trimmed)
