"""fp64: the same numbers whichever way the prompt was prefilled and moved."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import PreTrainedModel

from prefillshare.errors import ContextLengthError
from prefillshare.kv.cache import KVCache, read_blocks, write_block
from prefillshare.kv.identity import ModelId
from prefillshare.kv.layout import KVFormat
from prefillshare.models.prefill import PrefillModule
from tests.conftest import make_decoder

TOKENS = random.Random(0).choices(range(4, 260), k=53)
BAND = 1e-10
NO_STOP: frozenset[int] = frozenset()


def assert_same(a: KVCache, b: KVCache, band: float = BAND) -> None:
    for mine, theirs in zip(a.layers, b.layers, strict=True):
        for x, y in zip(mine, theirs, strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=band)


def generate_monolithic(model: PreTrainedModel, ids: list[int], n: int) -> list[int]:
    """Greedy tokens by whole forward passes without any cache."""
    ids = list(ids)
    for _ in range(n):
        with torch.no_grad():
            logits = model(torch.tensor([ids]), use_cache=False).logits
        ids.append(int(logits[0, -1].argmax()))
    return ids[-n:]


def test_shared_decode_equals_the_monolithic_forward(
    tiny_model: PreTrainedModel, tiny_id: ModelId
) -> None:
    decoder = make_decoder(tiny_model, tiny_id)
    for parameter in decoder.model.parameters():
        if parameter.requires_grad:
            parameter.data.zero_()
    cache = PrefillModule(tiny_model).prefill(TOKENS[:-1])
    with torch.no_grad():
        whole = tiny_model(torch.tensor([TOKENS])).logits[0, -1]
    step = decoder._step(TOKENS[-1:], cache.to_transformers())
    torch.testing.assert_close(step, whole, rtol=0, atol=BAND)
    out = decoder.generate(cache, TOKENS[-1:], max_tokens=12, stop_ids=NO_STOP)
    assert list(out) == generate_monolithic(tiny_model, TOKENS, 12)


@pytest.mark.parametrize("chunk", [1, 7, 16, 52])
def test_chunked_equals_whole(tiny_model: PreTrainedModel, chunk: int) -> None:
    whole = PrefillModule(tiny_model).prefill(TOKENS)
    chunked = PrefillModule(tiny_model, chunk_tokens=chunk).prefill(TOKENS)
    assert_same(chunked, whole)


@pytest.mark.parametrize("prefix", [1, 16, 40, 53])
def test_resumed_equals_whole_and_leaves_the_past_alone(
    tiny_model: PreTrainedModel, prefix: int
) -> None:
    module = PrefillModule(tiny_model)
    past = module.prefill(TOKENS[:prefix])
    before = [(k.clone(), v.clone()) for k, v in past.layers]
    resumed = module.prefill(TOKENS, past)
    assert_same(resumed, module.prefill(TOKENS))
    assert_same(past, KVCache(tuple(before)), band=0.0)


def test_the_sink_gets_every_chunk_once(tiny_model: PreTrainedModel) -> None:
    module = PrefillModule(tiny_model, chunk_tokens=20)
    seen: list[tuple[KVCache, int]] = []
    whole = module.prefill(
        TOKENS, sink=lambda cache, start: seen.append((cache, start))
    )
    assert [start for _, start in seen] == [0, 20, 40]
    assert_same(KVCache.concatenate([cache for cache, _ in seen]), whole, band=0.0)


@pytest.mark.parametrize("tokens", [1, 15, 16, 17, 53])
def test_blocks_hold_the_cache_byte_for_byte(
    tiny_model: PreTrainedModel, tokens: int
) -> None:
    module, form = PrefillModule(tiny_model), KVFormat("float64", 16)
    cache = module.prefill(TOKENS[:tokens])
    size = form.bytes_per_block(module.layout)
    blocks = [
        torch.full((size,), 255, dtype=torch.uint8) for _ in range(form.blocks(tokens))
    ]
    for i, block in enumerate(blocks):
        write_block(block, cache, i * 16, module.layout, form)
    assert_same(read_blocks(blocks, tokens, module.layout, form), cache, band=0.0)
    # What the last block does not use is zero, not somebody's old bytes.
    tail = read_blocks(blocks, len(blocks) * 16, module.layout, form)
    assert not any(k[:, tokens:].any() or v[:, tokens:].any() for k, v in tail.layers)


def test_the_decoder_computes_exactly_the_positions_after_the_boundary(
    tiny_model: PreTrainedModel, tiny_id: ModelId
) -> None:
    decoder = make_decoder(tiny_model, tiny_id)
    widths: list[int] = []
    decoder.model.register_forward_pre_hook(
        lambda _, args, kwargs: widths.append(kwargs["input_ids"].shape[1]),
        with_kwargs=True,
    )
    cache = PrefillModule(tiny_model).prefill(TOKENS[:-1])
    list(decoder.generate(cache, TOKENS[-1:], max_tokens=4, stop_ids=NO_STOP))
    assert widths == [1, 1, 1, 1]
    assert cache.tokens == len(TOKENS) - 1


def test_a_prompt_longer_than_the_context_is_refused(
    tiny_model: PreTrainedModel,
) -> None:
    with pytest.raises(ContextLengthError, match="4097 tokens.*context is 4096"):
        PrefillModule(tiny_model).prefill([5] * 4097)
